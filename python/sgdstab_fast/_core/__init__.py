"""The compiled core and what it is called with: keys of streams, typed functions, how it was built."""
