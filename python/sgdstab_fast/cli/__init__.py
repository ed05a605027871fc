"""The command line."""

from importlib import import_module

try:
    import_module("rich")  # before anything that needs it
except ImportError:
    raise ImportError('the command line needs rich: pip install "sgdstab_fast[cli]"') from None
