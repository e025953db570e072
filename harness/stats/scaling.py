"""How held-out loss falls with rows: a power law or a rectified law, or the answer that neither can be told.

    power       L(D) = A D^-b + E                  (Hestness et al. 2017, Kaplan et al. 2020)
    rectified   L(D) = B / (D_t + D^beta) + E      (Lin et al. 2024: a flat start before the power law sets in)

L is the mean negative log-likelihood of gold answers (nats), D the rows, E the floor. Fitted to the means per
size by weighted least squares from several fixed starts. Weights: one over the variance of the mean over random
seeds, each size's own averaged with that of all sizes, since three seeds say little of one (Smyth 2004). That
variance is known to the fit, so that AIC = chi-squared + 2 k. AICc adds 2 k (k + 1) / (n - k - 1) for n sizes
(Hurvich and Tsai 1989) and does not exist for n <= k + 1: six sizes are needed for the rectified law, five for
the other. A law that leaves more than the spread of seeds explains (an F test of its chi-squared) is out. Of the
others the one with the smaller AICc is kept. Nothing is said beyond MOST times the largest size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from harness.core.record import Record
from harness.stats.contrasts import slope_per_doubling
from harness.stats.intervals import MIN_SEEDS, Floats, Interval

Name = Literal["power", "rectified"]
Verdict = Literal["rises", "falls", "no measurable slope", "not estimable"]

MIN_SIZES = 5  # below which no law is fitted
MOST = 4  # times the largest size: no prediction beyond
DRAWS = 200  # bootstrap fits
LEVEL = 0.95  # of all intervals
MISFIT = 0.001  # p value of a law's lack of fit below which it is not the law of these losses
TINY = 1e-12
AT_BOUND = 1e-3  # of the range between its bounds: a parameter so near to one is not measured


class LawFit(Record):
    """One law on one set of means. Without `aicc` it cannot be chosen, and `note` says why."""

    law: Name
    parameters: dict[str, float] = {}  # A, b, E or B, D_t, beta, E
    chi_squared: float | None = None  # weighted squares left over; about sizes minus parameters for a good fit
    aicc: float | None = None
    note: str = ""


class Reach(Record):
    """The rows at which the law reaches a loss. None for "not within MOST times the largest size"."""

    target: float
    rows: int | None
    low: int | None
    high: int | None
    sentence: str


class Scaling(Record):
    """What a learning curve of losses says, and no more."""

    sizes: tuple[int, ...]
    seeds: int
    verdict: Verdict
    sentence: str
    slope: Interval  # nats per doubling
    law: Name | None = None
    fits: tuple[LawFit, ...] = ()
    predictions: tuple[tuple[int, Interval], ...] = ()  # at every size, 2 x and 4 x the largest
    draws: tuple[tuple[float, ...], ...] = ()  # the kept law's inner parameters, one tuple per bootstrap fit

    @property
    def furthest(self) -> int:
        """The most rows that anything is said about."""
        return MOST * max(self.sizes)

    def predict(self, rows: int) -> Interval:
        """The loss at `rows`. Raises ValueError without a law, below the smallest size, beyond `furthest`."""
        if self.law is None:
            raise ValueError(f"no law to predict with: {self.sentence}")
        if not min(self.sizes) <= rows <= self.furthest:
            raise ValueError(
                f"{rows} rows: nothing is predicted outside {min(self.sizes)} to {self.furthest} rows"
                f" ({MOST} x the largest size)"
            )
        return _interval(LAWS[self.law], self.draws, min(self.sizes), rows)

    def rows_to_reach(self, target: float) -> Reach:
        """The fewest rows whose predicted loss is `target` or less. Raises ValueError without a law."""
        if self.law is None:
            raise ValueError(f"no law to predict with: {self.sentence}")
        law, smallest = LAWS[self.law], min(self.sizes)
        reached = [_reached(law, inner, smallest, self.furthest, target) for inner in self.draws]
        first, ordered = reached[0], sorted(reached[1:])
        skipped = int((1 - LEVEL) / 2 * len(ordered))
        low, high = min(first, ordered[skipped]), max(first, ordered[-1 - skipped])
        rows, least, most = (int(n) if math.isfinite(n) else None for n in (first, low, high))
        beyond = f"more than {self.furthest}"
        expected = f"about {rows}" if rows is not None else beyond
        sentence = (
            f"a loss of {target:.4g} takes {expected} rows"
            f" ({least if least is not None else beyond} to {most if most is not None else beyond})"
        )
        return Reach(target=target, rows=rows, low=least, high=most, sentence=sentence)


@dataclass(frozen=True)
class _Law:
    """A law over x = D / the smallest size, in inner parameters on scales a solver likes."""

    name: Name
    loss: Callable[[Floats, Floats], Floats]  # (inner parameters, x) -> loss
    shapes: tuple[tuple[float, ...], ...]  # starts of what is not linear, in logs
    low: tuple[float, ...]
    high: tuple[float, ...]

    def outer(self, inner: Floats, smallest: int) -> dict[str, float]:
        """The parameters as the papers write them."""
        size, exponent, floor = math.exp(inner[0]), math.exp(inner[1]), float(inner[-1])
        if self.name == "power":
            return {"A": size * smallest**exponent, "b": exponent, "E": floor}
        scale = smallest**exponent
        return {"B": size * scale, "D_t": math.exp(inner[2]) * scale, "beta": exponent, "E": floor}


def _power(p: Floats, x: Floats) -> Floats:
    return np.asarray(np.exp(p[0]) * x ** -np.exp(p[1]) + p[-1])


def _rectified(p: Floats, x: Floats) -> Floats:
    return np.asarray(np.exp(p[0]) / (np.exp(p[2]) + x ** np.exp(p[1])) + p[-1])


_EXPONENT = (math.log(0.01), math.log(3.0))
_ONSET = (math.log(1e-3), math.log(1e3))  # D_t over the smallest size to the power of beta
_EXPONENTS = tuple(math.log(b) for b in (0.1, 0.3, 0.6, 1.2))
LAWS: dict[Name, _Law] = {
    "power": _Law("power", _power, tuple((b,) for b in _EXPONENTS), _EXPONENT[:1], _EXPONENT[1:]),
    "rectified": _Law(
        "rectified",
        _rectified,
        tuple((b, math.log(t)) for b in (*_EXPONENTS, math.log(2.0)) for t in (0.3, 3.0, 30.0)),
        (_EXPONENT[0], _ONSET[0]),
        (_EXPONENT[1], _ONSET[1]),
    ),
}


def fit_scaling(sizes: Sequence[int], nll: ArrayLike, random_seed: int) -> Scaling:
    """The curve of `nll`, shape (seeds, sizes, items), over `sizes` (rows, above 0, growing), with two items or more.

    Below MIN_SIZES sizes or MIN_SEEDS random seeds only the slope per doubling. Without one that can be told from
    zero no law either. "not estimable": no law fits, or a parameter (or half of its bootstrap fits) lies at its
    bound. Intervals: seeds and items reweighted, `_means`, and the law fitted again.
    Raises ValueError for shapes that do not match or values that are not finite.
    """
    values = np.asarray(nll, dtype=np.float64)
    rows = list(sizes)
    if values.ndim != 3 or values.shape[1] != len(rows) or values.shape[2] < 2 or not np.isfinite(values).all():
        raise ValueError(f"sizes {rows} do not go with finite losses of shape {values.shape}")
    if len(rows) < 2 or min(rows) < 1 or rows != sorted(set(rows)):
        raise ValueError(f"sizes {rows}: want two or more, above 0, growing")
    change = slope_per_doubling(rows, values, random_seed)
    assert change is not None  # of two independent items or more there always is one
    slope = change.interval
    verdict: Verdict = "rises" if slope.low > 0 else "falls" if slope.high < 0 else "no measurable slope"
    words = f"{slope.estimate:+.3g} nats per doubling of rows [{slope.low:+.3g}, {slope.high:+.3g}]"
    scaling = Scaling(
        sizes=tuple(rows), seeds=len(values), verdict=verdict, sentence=f"{verdict}: {words}", slope=slope
    )
    if len(rows) < MIN_SIZES or len(values) < MIN_SEEDS:
        why = f"a law takes {MIN_SIZES} sizes and {MIN_SEEDS} random seeds, here {len(rows)} and {len(values)}"
        return scaling.model_copy(update={"sentence": f"{scaling.sentence}; {why}"})
    if verdict != "falls":
        return scaling.model_copy(update={"sentence": f"{scaling.sentence}; the laws describe a falling loss"})
    return _with_law(scaling, values, random_seed)


def _with_law(scaling: Scaling, values: Floats, random_seed: int) -> Scaling:
    """The law with the smallest AICc, its bootstrap and its predictions, or "not estimable" with the reason."""
    x = np.asarray(scaling.sizes, dtype=np.float64) / min(scaling.sizes)
    means, errors = _spread(values)
    fits: dict[Name, tuple[LawFit, Floats]] = {}
    for law in LAWS.values():
        fits[law.name] = _fit(law, x, means, errors, scaling)
    tried = tuple(fit for fit, _ in fits.values())
    usable = [fit for fit in tried if fit.aicc is not None]
    reasons = "; ".join(f"{fit.law}: {fit.note}" for fit in tried if fit.note)
    if not usable:
        words = f"not estimable ({reasons}); {scaling.sentence}"
        return scaling.model_copy(update={"verdict": "not estimable", "sentence": words, "fits": tried})
    best = min(usable, key=lambda fit: fit.aicc if fit.aicc is not None else math.inf)
    law, inner = LAWS[best.law], fits[best.law][1]
    draws, bound = [tuple(float(v) for v in inner)], 0
    for drawn in _means(values, random_seed):
        refitted = _solve(law, x, drawn, errors, (inner[1:-1],))
        draws.append(tuple(float(v) for v in refitted))
        bound += bool(_at_bound(law, refitted))
    if bound > DRAWS / 2:
        words = f"not estimable ({best.law}: {bound} of {DRAWS} bootstrap fits have a parameter at its bound)"
        return scaling.model_copy(update={"verdict": "not estimable", "sentence": words, "fits": tried})
    chosen = scaling.model_copy(update={"law": best.law, "fits": tried, "draws": tuple(draws)})
    places = (*scaling.sizes, 2 * max(scaling.sizes), scaling.furthest)
    predictions = tuple((n, chosen.predict(n)) for n in places)
    last = predictions[-1][1]
    numbers = ", ".join(f"{name} = {value:.3g}" for name, value in best.parameters.items())
    words = (
        f"{scaling.sentence}; {best.law} law with {numbers}; at {scaling.furthest} rows {last.estimate:.3g}"
        f" [{last.low:.3g}, {last.high:.3g}]{'; ' + reasons if reasons else ''}"
    )
    return chosen.model_copy(update={"predictions": predictions, "sentence": words})


def _fit(law: _Law, x: Floats, means: Floats, errors: Floats, scaling: Scaling) -> tuple[LawFit, Floats]:
    """The best of all starts, with AICc or the reason why there is none."""
    from scipy.special import fdtrc

    n, k = len(x), 2 + len(law.low)
    if n <= k + 1:
        note = f"AICc does not exist for {n} sizes and {k} parameters (it takes {k + 2} sizes)"
        return LawFit(law=law.name, note=note), np.empty(0)
    inner = _solve(law, x, means, errors, [np.asarray(shape) for shape in law.shapes])
    chi = float((((law.loss(inner, x) - means) / errors) ** 2).sum())
    fit = LawFit(law=law.name, parameters=law.outer(inner, min(scaling.sizes)), chi_squared=chi)
    names = _at_bound(law, inner)
    if names:
        return fit.model_copy(update={"note": f"{', '.join(names)} at the bound of what is allowed"}), inner
    if fdtrc(n - k, n * (scaling.seeds - 1), chi / (n - k)) < MISFIT:
        note = f"does not fit: chi-squared {chi:.3g} with {n - k} degrees of freedom"
        return fit.model_copy(update={"note": note}), inner
    note = "the floor E is not told from 0" if inner[-1] <= AT_BOUND * float(means.min()) else ""
    aicc = chi + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    return fit.model_copy(update={"aicc": aicc, "note": note}), inner


def _inner(law: _Law, shape: Floats, x: Floats, means: Floats, errors: Floats) -> Floats:
    """All inner parameters for a given shape: size and floor are linear, by weighted least squares, 0 or more."""
    falling = law.loss(np.array([0.0, *shape, 0.0]), x)
    weights = errors**-2
    total, middle, level = weights.sum(), weights @ falling / weights.sum(), weights @ means / weights.sum()
    size = weights @ ((falling - middle) * (means - level)) / (weights @ (falling - middle) ** 2 + TINY * total)
    floor = level - size * middle
    if floor < 0:
        size, floor = weights @ (falling * means) / (weights @ falling**2), 0.0
    return np.array([math.log(max(float(size), TINY)), *shape, float(floor)])


def _solve(law: _Law, x: Floats, means: Floats, errors: Floats, shapes: Sequence[Floats]) -> Floats:
    """The inner parameters with the least weighted squares over all starts.

    Only the shape is searched. Size and floor follow from it (variable projection: Golub and Pereyra 1973).
    """
    from scipy.optimize import least_squares

    def residuals(shape: Floats) -> Floats:
        return np.asarray((law.loss(_inner(law, shape, x, means, errors), x) - means) / errors)

    bounds = (np.array(law.low), np.array(law.high))
    solutions = [least_squares(residuals, np.clip(shape, *bounds), bounds=bounds, method="dogbox") for shape in shapes]
    best = min(solutions, key=lambda result: float(result.cost))
    return _inner(law, np.asarray(best.x), x, means, errors)


def _at_bound(law: _Law, inner: Floats) -> list[str]:
    """Which shape parameters are not measured, because they ran to what is allowed."""
    names = ("b",) if law.name == "power" else ("beta", "D_t")
    at_bound = []
    for name, value, low, high in zip(names, inner[1:-1], law.low, law.high, strict=True):
        if min(value - low, high - value) <= AT_BOUND * (high - low):
            at_bound.append(name)
    return at_bound


def _spread(values: Floats) -> tuple[Floats, Floats]:
    """Means per size over seeds and items, and the standard errors that weigh them."""
    runs = values.mean(axis=2)
    means = runs.mean(axis=0)
    of_size = runs.var(axis=0, ddof=1)
    variance = (of_size + of_size.mean()) / 2 / len(runs)
    return means, np.sqrt(np.maximum(variance, (1e-5 * np.abs(means).max() + 1e-12) ** 2))


def _means(values: Floats, random_seed: int) -> list[Floats]:
    """DRAWS sets of means per size: random seeds and items reweighted.

    Whole seeds get Dirichlet weights (Rubin 1981), rescaled to the unbiased variance and widened to the t tails of
    seeds - 1 degrees of freedom. Items are drawn with replacement.
    """
    from scipy.special import stdtrit

    rng, (seeds, _, items) = np.random.default_rng(random_seed), values.shape
    tails = [float(stdtrit(freedom, (1 + LEVEL) / 2)) for freedom in (seeds - 1, 1e9)]
    wider = math.sqrt((seeds + 1) / (seeds - 1)) * tails[0] / tails[1]
    drawn = []
    for _ in range(DRAWS):
        runs = values @ (np.bincount(rng.integers(0, items, items), minlength=items) / items)
        weights = 1 / seeds + wider * (rng.dirichlet(np.ones(seeds)) - 1 / seeds)
        drawn.append(np.asarray(weights @ runs))
    return drawn


def _interval(law: _Law, draws: Sequence[Sequence[float]], smallest: int, rows: int) -> Interval:
    """The loss of the fit (the first of `draws`) at `rows`, with the percentiles of the others."""
    x = np.array([rows / smallest])
    losses = [float(law.loss(np.asarray(inner), x)[0]) for inner in draws]
    low, high = np.quantile(losses[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    first = losses[0]
    method = f"{law.name} law, bootstrap"
    return Interval(
        estimate=first, low=min(first, float(low)), high=max(first, float(high)), method=method, n=DRAWS, level=LEVEL
    )


def _reached(law: _Law, inner: Sequence[float], smallest: int, furthest: int, target: float) -> float:
    """The fewest rows at which the law is at `target` or below. Infinite when not by `furthest`."""
    parameters = np.asarray(inner)

    def is_reached(rows: int) -> bool:
        return float(law.loss(parameters, np.array([rows / smallest]))[0]) <= target

    if not is_reached(furthest):
        return math.inf
    low, high = smallest - 1, furthest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_reached(middle) else (middle, high)
    return float(high)
