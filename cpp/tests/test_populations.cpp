// Kernel 4 against enumeration: the moments of all products of few steps, one by one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "problems.hpp"
#include "sgdstab/advance_populations.hpp"
#include "sgdstab/advance_vectors.hpp"
#include "sgdstab/growth.hpp"
#include "sgdstab/tilted_steps.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class Form>
Form form_of(const Problem& problem, double learning_rate) {
  return {std::is_same_v<Form, GramForm> ? problem.gram_form(learning_rate) : problem.factor_form(learning_rate)};
}

// e_i or f_i, as rows.
RowMatrix directions(const GramForm& form) { return RowMatrix::Identity(form.n_examples(), form.n_examples()); }
RowMatrix directions(const FactorForm& form) { return form.rows; }

// A_i^T of all i: vectors are rows here.
template <class Form>
std::vector<RowMatrix> transposed_steps(const Form& form) {
  const Index d = form.dimension();
  const RowMatrix g = directions(form);
  std::vector<RowMatrix> steps;
  for (Index i = 0; i < form.n_examples(); ++i) {
    steps.push_back(RowMatrix::Identity(d, d) - form.learning_rate * form.rows.row(i).transpose() * g.row(i));
  }
  return steps;
}

// sqrt(sum_l |v_l|_M^2)
double norm_in(const RowMatrix& metric, const RowMatrix& v) { return std::sqrt((v * metric * v.transpose()).trace()); }

// E |A_{i_n} .. A_{i_1} v|_M^p
double moment(const std::vector<RowMatrix>& steps, const RowMatrix& metric, double p, const RowMatrix& v, Index n) {
  if (n == 0) return std::pow(norm_in(metric, v), p);
  double sum = 0;
  for (const RowMatrix& step : steps) sum += moment(steps, metric, p, v * step, n - 1);
  return sum / static_cast<double>(steps.size());
}

// The same over |v|_M^p.
double mean_growth_of(const std::vector<RowMatrix>& steps, const RowMatrix& metric, double p, const RowMatrix& v,
                      Index n) {
  return moment(steps, metric, p, v, n) / std::pow(norm_in(metric, v), p);
}

// A metric with what steps need of it. M is the norm of K unless given.
struct Norm {
  template <class Form>
  Norm(const Form& form, RowMatrix its_gram, RowMatrix its_metric = {})
      : of_k(its_metric.size() == 0), gram(std::move(its_gram)), metric(std::move(its_metric)) {
    const RowMatrix g = directions(form);
    if (of_k) metric = std::is_same_v<Form, GramForm> ? gram : RowMatrix::Identity(form.dimension(), form.dimension());
    coupling = g * metric * g.transpose();
    diagonal = coupling.diagonal();
  }
  Gauge gauge() const {
    return {gram.data(), of_k ? nullptr : coupling.data(), of_k ? nullptr : metric.data(), diagonal.data()};
  }

  bool of_k;
  RowMatrix gram, metric, coupling;
  Eigen::VectorXd diagonal;
};

RowMatrix random_metric(Index n) {
  const RowMatrix root = normal(n, n, 8);
  return root * root.transpose() + RowMatrix::Identity(n, n);
}

// The norm of K and a random metric, as the core asks for them.
template <class Form>
struct TwoMetrics {
  TwoMetrics(const Form& form, const RowMatrix& gram)
      : norms{{form, gram}, {form, gram, random_metric(form.dimension())}}, diagonals(2, form.n_examples()) {
    for (Index m = 0; m < 2; ++m) diagonals.row(m) = norms[static_cast<std::size_t>(m)].diagonal;
  }
  Metrics view() const { return {2, norms[1].metric.data(), diagonals.data()}; }

  std::vector<Norm> norms;
  RowMatrix diagonals;
};

void check_close(double value, double expected, double tolerance) {
  CHECK(std::abs(value - expected) <= tolerance * std::max(1.0, std::abs(expected)));
}

void check_mean(const Eigen::ArrayXd& samples, double expected) {
  const double error = std::sqrt((samples - samples.mean()).square().mean() / static_cast<double>(samples.size()));
  CAPTURE(error);
  CAPTURE(samples.mean());
  CHECK(std::abs(samples.mean() - expected) <= 4 * error + 1e-12 * expected);
}

// The example whose step takes v to w, up to scale.
Index chosen(const std::vector<RowMatrix>& steps, const RowMatrix& metric, const RowMatrix& v, const RowMatrix& w) {
  Index best = 0;
  double least = kInfinity;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const RowMatrix next = v * steps[i];
    const double distance = (next / norm_in(metric, next) - w).norm();
    if (distance < least) {
      least = distance;
      best = static_cast<Index>(i);
    }
  }
  CHECK(least < 1e-10);
  return best;
}

// Steps one by one, from step 2 on, each against the definition; then all in one call.
template <class Form>
void check_tilted_steps(const Form& form, const Norm& norm, double p, Index k) {
  constexpr Index kSteps = 70;
  constexpr std::uint64_t kStart = 2;
  const std::vector<RowMatrix> steps = transposed_steps(form);
  const RowMatrix start = normal(k, form.dimension(), 5);
  RowMatrix v = start, product = start;
  TiltedSteps tilted(form, norm.gauge(), p, k, 0);
  double log_norm = 0, log_weight = 0;
  for (Index t = 0; t < kSteps; ++t) {
    const RowMatrix before = v;
    const auto growth = tilted.advance(form, kKey, 3, kStart + static_cast<std::uint64_t>(t), 1, v.data());
    CHECK(norm_in(norm.metric, v) == doctest::Approx(1));
    const Index i = chosen(steps, norm.metric, before, v);
    const RowMatrix next = before * steps[static_cast<std::size_t>(i)];
    check_close(growth.log_norm, std::log(norm_in(norm.metric, next) / norm_in(norm.metric, before)), 1e-11);
    check_close(growth.log_weight, std::log(mean_growth_of(steps, norm.metric, p, before, 1)), 1e-11);
    log_norm += growth.log_norm;
    log_weight += growth.log_weight;
    product = (product * steps[static_cast<std::size_t>(i)]).eval();
  }
  check_close(log_norm, std::log(norm_in(norm.metric, product) / norm_in(norm.metric, start)), 1e-10);
  RowMatrix together = start;
  const auto growth = tilted.advance(form, kKey, 3, kStart, kSteps, together.data());
  check_close(growth.log_norm, log_norm, 1e-9);
  check_close(growth.log_weight, log_weight, 1e-9);
  CHECK((together - v).norm() < 1e-9);
}

// Over many streams: how often examples are drawn, and what two steps weigh.
template <class Form>
void check_law_of_tilted_steps(const Form& form, const Norm& norm, double p) {
  constexpr Index kStreams = 4000;
  const Index n = form.n_examples();
  const std::vector<RowMatrix> steps = transposed_steps(form);
  const RowMatrix start = normal(1, form.dimension(), 5);
  TiltedSteps tilted(form, norm.gauge(), p, 1, 0);
  Eigen::ArrayXd weights(kStreams), count = Eigen::ArrayXd::Zero(n);
  for (Index stream = 0; stream < kStreams; ++stream) {
    RowMatrix v = start;
    const auto number = static_cast<std::uint64_t>(stream);
    const double first = tilted.advance(form, kKey, number, 0, 1, v.data()).log_weight;
    ++count[chosen(steps, norm.metric, start, v)];
    weights[stream] = std::exp(first + tilted.advance(form, kKey, number, 1, 1, v.data()).log_weight);
  }
  check_mean(weights, mean_growth_of(steps, norm.metric, p, start, 2));
  const double h = mean_growth_of(steps, norm.metric, p, start, 1);
  for (Index i = 0; i < n; ++i) {
    const double growth =
        norm_in(norm.metric, start * steps[static_cast<std::size_t>(i)]) / norm_in(norm.metric, start);
    const double probability = std::pow(growth, p) / (static_cast<double>(n) * h);
    const double error = std::sqrt(probability * (1 - probability) / kStreams);
    CHECK(std::abs(count[i] / kStreams - probability) <= 4 * error);
  }
}

// Populations of walkers, and what they give.
struct Populations {
  Populations(Index number, Index its_size, Index vectors, Index length)
      : n(number), size(its_size), k(vectors), d(length), walkers(RowMatrix::Zero(n * size, k * d + 2)) {}
  // All from v: one row for each vector.
  Populations(Index number, Index its_size, const RowMatrix& v) : Populations(number, its_size, v.rows(), v.cols()) {
    walkers.leftCols(k * d).rowwise() = Eigen::Map<const Eigen::RowVectorXd>(v.data(), k * d);
  }
  RowMatrix vectors(Index j) const { return Eigen::Map<const RowMatrix>(walkers.row(j).data(), k, d); }
  double weight(Index j) const { return std::exp(walkers(j, k * d)); }
  double log_norm(Index j) const { return walkers(j, k * d + 1); }

  Index n, size, k, d;
  RowMatrix walkers;
};

struct Sums {
  Sums(Index n, Index n_batches, Index n_metrics)
      : log_growth(n, n_batches),
        effective_size(n, n_batches),
        separation(n, n_batches),
        norms(n, n_batches * n_metrics),
        excess(n, n_batches * n_metrics) {}
  PopulationSums view() {
    return {log_growth.data(), effective_size.data(), norms.data(), excess.data(), separation.data()};
  }

  RowMatrix log_growth, effective_size, separation, norms, excess;
};

template <class Form>
Sums advance(const Form& form, const Steps& steps, const PopulationOptions& options, const Metrics& metrics,
             Populations& populations, int n_threads = 1) {
  Sums sums(populations.n, steps.n_batches, metrics.count);
  advance_populations(form, steps, options, metrics, populations.walkers.data(), populations.n, populations.size,
                      sums.view(), n_threads);
  return sums;
}

// 6 steps as 2 batches of 3; looked at, and resampled, after every one.
template <class Form>
void check_moments(const Form& form, double p, const RowMatrix& start, const Norm* gauge) {
  const RowMatrix metric = gauge != nullptr ? gauge->metric : RowMatrix::Identity(form.dimension(), form.dimension());
  Gauge its{};
  if (gauge != nullptr) its = gauge->gauge();
  const PopulationOptions options{p, start.rows(), 0, 1, false, 1.0, gauge != nullptr ? &its : nullptr};
  Populations populations(2000, 4, start / norm_in(metric, start));
  const Sums sums = advance(form, {kKey, 0, 0, 2, 3}, options, Metrics{}, populations);
  check_mean(sums.log_growth.rowwise().sum().array().exp(),
             mean_growth_of(transposed_steps(form), metric, p, start, 6));
  for (Index c = 0; c < populations.n; c += 97) {
    double sum = 0;
    for (Index j = c * 4; j < c * 4 + 4; ++j) {
      sum += populations.weight(j);
      CHECK(norm_in(metric, populations.vectors(j)) == doctest::Approx(1));
    }
    CHECK(sum / 4 == doctest::Approx(1));
  }
}

// Everything that 6 populations of 8 walkers give in 4 batches, cut into calls; in two parts if asked for.
template <class Form>
std::vector<double> outputs(const Form& form, const Norm* gauge, const RowMatrix& gram, const std::vector<Index>& calls,
                            int n_threads, Index in_first_part = 6) {
  const TwoMetrics<Form> metrics(form, gram);
  Gauge its{};
  if (gauge != nullptr) its = gauge->gauge();
  const Index n_passive = gauge != nullptr ? 1 : 0, d = form.dimension();
  const PopulationOptions options{1.5, 1, n_passive, 5, false, 0.7, gauge != nullptr ? &its : nullptr};
  const RowMatrix start = normal(6 * 8, (1 + n_passive) * d, 12);
  std::vector<double> result;
  for (const auto& [first, n] : {std::pair<Index, Index>{0, in_first_part}, {in_first_part, 6 - in_first_part}}) {
    Populations populations(n, 8, 1 + n_passive, d);
    populations.walkers.leftCols(start.cols()) = start.middleRows(first * 8, n * 8);
    RowMatrix all(n, 4 * 7);  // by population, then batch
    Index batch = 0;
    for (const Index n_batches : calls) {
      const Steps steps{kKey, 30 + static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(batch * 21), n_batches,
                        21};
      const Sums sums = advance(form, steps, options, metrics.view(), populations, n_threads);
      for (Index b = 0; b < n_batches; ++b, ++batch) {
        all.middleCols(7 * batch, 7) << sums.log_growth.col(b), sums.effective_size.col(b), sums.separation.col(b),
            sums.norms.middleCols(2 * b, 2), sums.excess.middleCols(2 * b, 2);
      }
    }
    result.insert(result.end(), all.data(), all.data() + all.size());
    result.insert(result.end(), populations.walkers.data(), populations.walkers.data() + populations.walkers.size());
  }
  return result;
}

template <class Form>
void check_bits(const Form& form, const RowMatrix& gram) {
  const Norm metric(form, gram, random_metric(form.dimension()));
  for (const Norm* gauge : {static_cast<const Norm*>(nullptr), &metric}) {
    const std::vector<double> expected = outputs(form, gauge, gram, {4}, 1);
    CHECK(outputs(form, gauge, gram, {4}, 2) == expected);
    CHECK(outputs(form, gauge, gram, {1, 3}, 1) == expected);
    CHECK(outputs(form, gauge, gram, {1, 1, 2}, 2) == expected);
    // In parts the numbers come in another order.
    std::vector<double> sorted = expected, parts = outputs(form, gauge, gram, {3, 1}, 2, 2);
    std::sort(sorted.begin(), sorted.end());
    std::sort(parts.begin(), parts.end());
    CHECK(parts == sorted);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("mean growth to a power is the mean over all next steps", Form, GramForm, FactorForm) {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    const Form form = form_of<Form>(problem, kEta);
    const Index d = form.dimension(), n_vectors = 5, stride = d + 3;
    const TwoMetrics<Form> metrics(form, problem.gram);
    const std::vector<RowMatrix> steps = transposed_steps(form);
    const RowMatrix vectors = normal(n_vectors, stride, 9);
    GrowthWorkspace workspace(form);
    RowMatrix squared_norms(2, kLanes), mean_growth(2, kLanes);
    for (const double p : {-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0}) {
      workspace.evaluate_moments(form, p, metrics.view(), vectors.data(), stride, n_vectors, squared_norms.data(),
                                 mean_growth.data());
      for (Index v = 0; v < n_vectors; ++v) {
        const RowMatrix s = vectors.row(v).head(d);
        for (Index m = 0; m < 2; ++m) {
          const RowMatrix& metric = metrics.norms[static_cast<std::size_t>(m)].metric;
          CHECK(squared_norms(m, v) == doctest::Approx(std::pow(norm_in(metric, s), 2)).epsilon(1e-12));
          CHECK(mean_growth(m, v) + 1 == doctest::Approx(mean_growth_of(steps, metric, p, s, 1)).epsilon(1e-10));
          if (p == 0) CHECK(mean_growth(m, v) == 0);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("mean growth less 1 keeps its digits where steps are small", Form, GramForm, FactorForm) {
  // h - 1 = -(p eta / N) sum_i w_i y_i / q + O(eta^2)
  const Problem problem(9);
  constexpr double kTiny = 1e-11;
  const Form form = form_of<Form>(problem, kTiny);
  const Index d = form.dimension();
  const TwoMetrics<Form> metrics(form, problem.gram);
  const RowMatrix v = normal(1, d, 9), w = v * form.rows.transpose();
  GrowthWorkspace workspace(form);
  RowMatrix squared_norms(2, kLanes), mean_growth(2, kLanes);
  for (const double p : {-1.0, 0.5, 1.0, 2.0, 3.0, 8.0}) {
    workspace.evaluate_moments(form, p, metrics.view(), v.data(), d, 1, squared_norms.data(), mean_growth.data());
    for (Index m = 0; m < 2; ++m) {
      const RowMatrix y = v * metrics.norms[static_cast<std::size_t>(m)].metric * directions(form).transpose();
      const double first_order = -p * kTiny * w.row(0).dot(y.row(0)) / 9 / squared_norms(m, 0);
      CHECK(mean_growth(m, 0) / first_order == doctest::Approx(1).epsilon(1e-8));
    }
  }
}

TEST_CASE_TEMPLATE("a tilted step is a step, and weighs the mean growth of the next", Form, GramForm, FactorForm) {
  for (const Index n : {1, 2, 5}) {
    const Problem problem(n);
    const Form form = form_of<Form>(problem, kEta);
    const Index d = form.dimension();
    for (const Norm& norm : {Norm(form, problem.gram), Norm(form, problem.gram, random_metric(d))}) {
      for (const double p : {-1.0, -0.3, 0.5, 1.0, 2.0, 3.0, 13.0}) {
        check_tilted_steps(form, norm, p, 1);
        check_tilted_steps(form, norm, p, d);
      }
    }
  }
}

TEST_CASE_TEMPLATE("tilted steps draw examples by growth^p, and mean weights are moments", Form, GramForm, FactorForm) {
  const Problem problem(4);
  const Form form = form_of<Form>(problem, kEta);
  for (const Norm& norm : {Norm(form, problem.gram), Norm(form, problem.gram, random_metric(form.dimension()))}) {
    for (const double p : {-1.0, 0.5, 1.0, 2.0, 3.0}) check_law_of_tilted_steps(form, norm, p);
  }
}

TEST_CASE("tilted steps of both forms are the same steps") {
  const Problem problem(5);
  const GramForm gram{problem.gram_form(kEta)};
  const FactorForm factor{problem.factor_form(kEta)};
  const RowMatrix metric = random_metric(factor.dimension());
  const RowMatrix image = problem.features * metric * problem.features.transpose();
  for (const bool of_k : {true, false}) {
    const Norm in_gram = of_k ? Norm(gram, problem.gram) : Norm(gram, problem.gram, image);
    const Norm in_factor = of_k ? Norm(factor, problem.gram) : Norm(factor, problem.gram, metric);
    for (const double p : {-0.5, 1.0, 2.5}) {
      RowMatrix a = normal(2, 5, 6), s = a * problem.features;
      const auto of_a = TiltedSteps(gram, in_gram.gauge(), p, 2, 0).advance(gram, kKey, 8, 5, 50, a.data());
      const auto of_s = TiltedSteps(factor, in_factor.gauge(), p, 2, 0).advance(factor, kKey, 8, 5, 50, s.data());
      check_close(of_a.log_norm, of_s.log_norm, 1e-10);
      check_close(of_a.log_weight, of_s.log_weight, 1e-10);
      CHECK((a * problem.features - s).norm() < 1e-9);
    }
  }
}

TEST_CASE_TEMPLATE("passive vectors take the steps of the others and leave these alone", Form, GramForm, FactorForm) {
  const Problem problem(4);
  const Form form = form_of<Form>(problem, kEta);
  const std::vector<RowMatrix> steps = transposed_steps(form);
  const Index d = form.dimension();
  for (const Norm& norm : {Norm(form, problem.gram), Norm(form, problem.gram, random_metric(d))}) {
    for (const Index k : {1, 3}) {
      RowMatrix all = normal(k + 1, d, 14), alone = all.topRows(k);
      RowMatrix passive = all.row(k);
      TiltedSteps with(form, norm.gauge(), 1.5, k, 1), without(form, norm.gauge(), 1.5, k, 0);
      for (std::uint64_t t = 0; t < 20; ++t) {
        const RowMatrix before = alone;
        const auto growth = with.advance(form, kKey, 4, t, 1, all.data());
        const auto expected = without.advance(form, kKey, 4, t, 1, alone.data());
        CHECK(all.topRows(k) == alone);
        CHECK(growth.log_norm == expected.log_norm);
        CHECK(growth.log_weight == expected.log_weight);
        const Index i = chosen(steps, norm.metric, before, alone);
        const double scale = norm_in(norm.metric, before * steps[static_cast<std::size_t>(i)]);
        passive = (passive * steps[static_cast<std::size_t>(i)] / scale).eval();
        CHECK((all.row(k) - passive).norm() < 1e-10 * passive.norm());
      }
    }
  }
}

TEST_CASE_TEMPLATE("total weights of small populations are moments on average", Form, GramForm, FactorForm) {
  const Problem problem(3);
  const Form form = form_of<Form>(problem, kEta);
  const Index d = form.dimension();
  const Norm of_k(form, problem.gram), other(form, problem.gram, random_metric(d));
  for (const double p : {-0.7, 1.0, 2.0, 4.0}) {
    const RowMatrix start = normal(1, d, 15);
    check_moments(form, p, start, nullptr);
    check_moments(form, p, start, &of_k);
    check_moments(form, p, start, &other);
  }
  const RowMatrix start = RowMatrix::Identity(d, d);  // Frobenius norms of products
  check_moments(form, 3, start, nullptr);
  check_moments(form, 3, start, &other);
}

TEST_CASE_TEMPLATE("norms and excess are weighted means over walkers", Form, GramForm, FactorForm) {
  const Problem problem(4);
  const Form form = form_of<Form>(problem, kEta);
  const std::vector<RowMatrix> steps = transposed_steps(form);
  const TwoMetrics<Form> metrics(form, problem.gram);
  const Gauge gauge = metrics.norms[1].gauge();
  for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
    for (const double p : {-0.5, 0.0, 1.0, 2.0, 3.5}) {
      const Index size = 21;
      Populations populations(2, size, normal(1, form.dimension(), 16));
      const Sums sums = advance(form, {kKey, 0, 0, 1, 9}, {p, 1, 0, 64, false, 0.0, its}, metrics.view(), populations);
      for (Index c = 0; c < 2; ++c) {
        double squares = 0, total = 0;
        for (Index j = c * size; j < (c + 1) * size; ++j) {
          total += populations.weight(j);
          squares += std::pow(populations.weight(j), 2);
        }
        CHECK(total / size == doctest::Approx(1));
        CHECK(sums.effective_size(c, 0) == doctest::Approx(total * total / squares));
        if (p == 0) CHECK(sums.effective_size(c, 0) == size);
        for (Index m = 0; m < 2; ++m) {
          const RowMatrix& metric = metrics.norms[static_cast<std::size_t>(m)].metric;
          double norm = 0, after = 0;
          for (Index j = c * size; j < (c + 1) * size; ++j) {
            const RowMatrix s = populations.vectors(j);
            norm += populations.weight(j) / total * moment(steps, metric, p, s, 0);
            after += populations.weight(j) / total * moment(steps, metric, p, s, 1);
          }
          CHECK(sums.norms(c, m) == doctest::Approx(norm).epsilon(1e-10));
          CHECK(sums.excess(c, m) == doctest::Approx(after - norm).epsilon(1e-10));
          if (p == 0) CHECK(sums.excess(c, m) == 0);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("walkers in plain steps are the chains of kernel 1", Form, GramForm, FactorForm) {
  const Problem problem(4);
  const Form form = form_of<Form>(problem, kEta);
  for (const bool careful : {false, true}) {
    Populations populations(3, 5, normal(1, form.dimension(), 17).normalized());
    RowMatrix vectors = populations.walkers.leftCols(form.dimension()), log_growth(15, 2);
    advance(form, {kKey, 6, 11, 2, 20}, {2, 1, 0, 7, careful, 0.0, nullptr}, Metrics{}, populations);
    advance_vectors(form, {kKey, 6 * 5, 11, 2, 20}, {7, careful, 1}, Metrics{}, vectors.data(), 15, 1,
                    {log_growth.data(), nullptr}, 1);
    for (Index j = 0; j < 15; ++j) {
      check_close(populations.log_norm(j), log_growth.row(j).sum(), 1e-11);
      CHECK((populations.vectors(j) - vectors.row(j)).norm() < 1e-11);
    }
  }
}

TEST_CASE_TEMPLATE("weights are the growth of norms to the power p", Form, GramForm, FactorForm) {
  const Problem problem(4);
  const Form form = form_of<Form>(problem, kEta);
  for (const double p : {-1.0, 0.0, 1.5}) {
    Populations populations(1, 6, normal(1, form.dimension(), 17).normalized());
    const Sums sums = advance(form, {kKey, 0, 0, 3, 20}, {p, 1, 0, 7, false, 0.0, nullptr}, Metrics{}, populations);
    const double total = sums.log_growth.sum();
    for (Index j = 0; j < 6; ++j) {
      check_close(std::log(populations.weight(j)) + total, p * populations.log_norm(j), 1e-12);
    }
    if (p == 0) CHECK(sums.effective_size == RowMatrix::Constant(1, 3, 6));
  }
}

TEST_CASE("tilted steps have no variance in the metric of constant mean squared growth") {
  // (1/N) sum_i A_i^T M A_i = lambda M
  const Problem problem(4);
  const GramForm form{problem.gram_form(kEta)};
  const std::vector<RowMatrix> steps = transposed_steps(form);
  RowMatrix metric = RowMatrix::Identity(4, 4);
  double lambda = 0;
  for (int iteration = 0; iteration < 2000; ++iteration) {
    RowMatrix next = RowMatrix::Zero(4, 4);
    for (const RowMatrix& step : steps) next += step * metric * step.transpose() / 4;
    lambda = next.norm();
    metric = next / lambda;
    if (iteration == 0) metric /= metric.norm();
  }
  const Norm norm(form, problem.gram, metric);
  const Gauge gauge = norm.gauge();
  RowMatrix diagonals(2, 4);
  diagonals << problem.gram.diagonal().transpose(), norm.diagonal.transpose();
  Populations populations(3, 5, 1, 4);
  populations.walkers.leftCols(4) = normal(15, 4, 18);
  const Sums sums = advance(form, {kKey, 0, 0, 4, 30}, {2, 1, 0, 64, false, 0.99, &gauge},
                            {2, metric.data(), diagonals.data()}, populations);
  CHECK((sums.log_growth.array() - 30 * std::log(lambda)).abs().maxCoeff() < 1e-11);
  CHECK((sums.effective_size.array() - 5).abs().maxCoeff() < 1e-11);
  for (Index record = 0; record < 12; ++record) {
    const double x = sums.norms(record / 4, 2 * (record % 4) + 1), e = sums.excess(record / 4, 2 * (record % 4) + 1);
    CHECK(x == doctest::Approx(1).epsilon(1e-11));
    CHECK(1 + e / x == doctest::Approx(lambda).epsilon(1e-11));
  }
}

TEST_CASE_TEMPLATE("a resampled walker has as many offspring as its weight, rounded down or up", Form, GramForm,
                   FactorForm) {
  const Problem problem(6);
  const Form form = form_of<Form>(problem, kEta);
  const Norm norm(form, problem.gram);
  const Gauge gauge = norm.gauge();
  const Index n = 20, size = 9;
  for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
    for (const double p : {-1.0, 1.0, 4.0}) {
      // A batch of so few steps has one look at the weights, at its end.
      const Steps steps{kKey, 5, 40, 1, 4};
      Populations before(n, size, 1, form.dimension());
      before.walkers.leftCols(form.dimension()) = normal(n * size, form.dimension(), 19).rowwise().normalized();
      Populations after = before;
      const Sums weighted = advance(form, steps, {p, 1, 0, 64, false, 0.0, its}, Metrics{}, before);
      const Sums resampled = advance(form, steps, {p, 1, 0, 64, false, 1.0, its}, Metrics{}, after);
      CHECK((weighted.log_growth - resampled.log_growth).cwiseAbs().maxCoeff() < 1e-13);
      CHECK((resampled.effective_size.array() - size).abs().maxCoeff() < 1e-13);
      for (Index c = 0; c < n; ++c) {
        Index found = 0;
        for (Index j = c * size; j < (c + 1) * size; ++j) {
          Index offspring = 0;
          for (Index o = c * size; o < (c + 1) * size; ++o) {
            if (after.vectors(o) == before.vectors(j) && after.log_norm(o) == before.log_norm(j)) ++offspring;
          }
          CHECK(offspring >= std::floor(before.weight(j) - 1e-12));
          CHECK(offspring <= std::ceil(before.weight(j) + 1e-12));
          CHECK(std::abs(after.weight(j) - 1) < 1e-13);
          found += offspring;
        }
        CHECK(found == size);
      }
    }
  }
}

TEST_CASE("a passive vector separates as areas and lengths tell") {
  // In the plane the area that two vectors span grows by |det A_i| = |1 - eta K_ii|, whatever i.
  const RowMatrix features = normal(5, 2, 20).rowwise().normalized(), gram = features * features.transpose();
  const FactorForm form{{{features.data(), 5, 2, Eigen::OuterStride<>(2)}, kEta}};
  const Norm norm(form, gram);
  const Gauge gauge = norm.gauge();
  const Index size = 7;
  Populations populations(1, size, 2, 2);
  populations.walkers.leftCols(4) = normal(size, 4, 21);
  Eigen::ArrayXd before = Eigen::ArrayXd::Zero(size);
  for (std::uint64_t batch = 0; batch < 3; ++batch) {
    const Sums sums =
        advance(form, {kKey, 0, 10 * batch, 1, 10}, {1.5, 1, 1, 64, false, 0.0, &gauge}, Metrics{}, populations);
    double expected = 0;
    for (Index j = 0; j < size; ++j) {
      const double log_length = populations.log_norm(j) - (batch == 0 ? 0.0 : before[j]);
      expected += populations.weight(j) * (2 * log_length - 10 * std::log(std::abs(1 - kEta))) / size;
      before[j] = populations.log_norm(j);
      const RowMatrix pair = populations.vectors(j);
      CHECK((pair * pair.transpose() - RowMatrix::Identity(2, 2)).norm() < 1e-12);
    }
    CHECK(sums.separation(0, 0) == doctest::Approx(expected).epsilon(1e-9));
  }
}

TEST_CASE("bits of populations depend neither on threads nor on how batches and populations are cut into calls") {
  const Problem problem(7);
  check_bits(GramForm{problem.gram_form(kEta)}, problem.gram);
  check_bits(FactorForm{problem.factor_form(kEta)}, problem.gram);
}

TEST_CASE("moments of annihilated walkers are 0, or infinite at negative orders") {
  RowMatrix one(1, 1), two(2, 2);
  one << 2;
  two << 2, 0, 0, 2;
  for (const RowMatrix& gram : {one, two}) {
    const Index n = gram.rows();
    const GramForm form{{{gram.data(), n, n, Eigen::OuterStride<>(n)}, 0.5}};
    const Norm norm(form, gram);
    const Gauge gauge = norm.gauge();
    const Metrics metrics{1, nullptr, norm.diagonal.data()};
    for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
      for (const double p : {-1.0, -0.5, 1.0, 2.0}) {
        Populations populations(2, 4, RowMatrix::Ones(1, n));
        const Sums sums = advance(form, {kKey, 0, 0, 2, 60}, {p, 1, 0, 16, false, 0.5, its}, metrics, populations);
        if (its != nullptr && n == 2 && p > 0) {
          // Tilted steps never take the last one: 2^-1/2 of the norm remains, on one example out of two each time.
          for (Index c = 0; c < 2; ++c) {
            check_close(sums.log_growth(c, 0), -(p / 2 + 59) * std::log(2), 1e-13);
            check_close(sums.log_growth(c, 1), -60 * std::log(2), 1e-13);
          }
          continue;
        }
        CHECK(sums.log_growth == RowMatrix::Constant(2, 2, p > 0 ? -kInfinity : kInfinity));
        CHECK(sums.effective_size == RowMatrix::Zero(2, 2));
        CHECK(sums.norms == RowMatrix::Zero(2, 2));
        CHECK(sums.excess == RowMatrix::Zero(2, 2));
      }
    }
  }
}

TEST_CASE("steps of populations make no allocation of Eigen's") {
  const Problem problem(37);
  const GramForm form{problem.gram_form(0.9)};
  Populations populations(2, 6, RowMatrix::Ones(1, 37));
  Sums sums(2, 3, 0);
  Eigen::internal::set_is_malloc_allowed(false);
  advance_populations(form, {kKey, 0, 0, 3, 100}, {2, 1, 0, 64, false, 0.5, nullptr}, Metrics{},
                      populations.walkers.data(), 2, 6, sums.view(), 1);
  Eigen::internal::set_is_malloc_allowed(true);
  const TwoMetrics<GramForm> metrics(form, problem.gram);
  GrowthWorkspace workspace(form);
  RowMatrix squared_norms(2, kLanes), mean_growth(2, kLanes);
  Eigen::internal::set_is_malloc_allowed(false);
  workspace.evaluate_moments(form, 1.5, metrics.view(), populations.walkers.data(), 39, 12, squared_norms.data(),
                             mean_growth.data());
  Eigen::internal::set_is_malloc_allowed(true);
  for (const Norm& norm : metrics.norms) {
    for (const double p : {1.5, 3.0}) {
      TiltedSteps tilted(form, norm.gauge(), p, 2, 1);
      RowMatrix v = normal(3, 37, 22);
      Eigen::internal::set_is_malloc_allowed(false);
      const auto growth = tilted.advance(form, kKey, 0, 0, 100, v.data());
      Eigen::internal::set_is_malloc_allowed(true);
      CHECK(std::isfinite(growth.log_weight));
    }
  }
}
