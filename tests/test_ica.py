"""LDMICA against densities and optimisers that share no code with it, and as a scikit-learn estimator."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldmfilter.errors import InputError
from ldmfilter.ica import CORNER, LDMICA, _generalized_gaussian_fit, _logistic_fit, amari_distance
from ldmfilter.ldm.alignment import generalized_gaussian, logistic
from tests.benchmarks.ica_speed import MIXTURES, WAYS, measure

MIXING = np.array([[1.0, 0.7, -0.2], [0.7, 1.0, 0.4], [0.1, -0.5, 1.0]])


@pytest.fixture
def sources():
    rng = np.random.default_rng(1)
    return np.stack([3 * rng.laplace(size=4000), rng.laplace(size=4000), rng.standard_t(5, 4000)], axis=1)


@parametrize_with_checks([LDMICA(), LDMICA(density="logistic"), LDMICA(density="laplace")])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some checks fit ten random samples
def test_as_scikit_learn_asks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("beta", [1.0, 1.4, 2.0, 4.0, 11.0])
def test_score_and_slope_are_the_density_s_derivatives(beta):
    torch.manual_seed(0)
    y = torch.randn(2, 50, dtype=torch.float64, requires_grad=True)
    shape = torch.tensor([beta, 3.0], dtype=torch.float64)
    for fit, log_p in (
        (_generalized_gaussian_fit(y.detach(), shape), generalized_gaussian(y, shape[:, None], corner=CORNER)),
        (_logistic_fit(y.detach()), logistic(y)),
    ):
        (psi,) = torch.autograd.grad(-log_p.sum(), y, create_graph=True)
        (slope,) = torch.autograd.grad(psi.sum(), y)
        assert fit.value == pytest.approx(float(log_p.detach().mean(1).sum()), abs=1e-12)
        torch.testing.assert_close(fit.psi, psi.detach())
        torch.testing.assert_close(fit.slope, slope.mean(1))
        torch.testing.assert_close(fit.slope_y2, (slope * y.square()).detach().mean(1))


def negative(parameters, X, log_density):
    """-F of W and locations by scipy's densities."""
    n = X.shape[1]
    W, location = parameters[: n * n].reshape(n, n), parameters[n * n :]
    return -log_density(X @ W.T - location).sum(1).mean() - np.linalg.slogdet(W)[1]


@pytest.mark.parametrize(
    ("options", "log_density"),
    [
        ({"density": "logistic"}, stats.logistic(scale=np.sqrt(3) / np.pi).logpdf),
        ({"shape": 1.5}, lambda z: stats.gennorm.logpdf(z, 1.5, scale=np.sqrt(gamma_ratio(1.5)))),
    ],
)
def test_no_other_affine_map_is_likelier(sources, options, log_density):
    """A general optimiser on the plain objective, from the truth, ends at the same likelihood and the same W."""
    X = sources[:1000] @ MIXING.T
    ica = LDMICA(tol=1e-9, random_state=0, **options).fit(X)
    start = np.linalg.inv(MIXING) / sources.std(0)[:, None]
    found = optimize.minimize(
        negative, np.r_[start.ravel(), np.zeros(3)], (X - X.mean(0), log_density), options={"gtol": 1e-6}
    )
    assert ica.converged_
    assert ica.log_likelihood_ == pytest.approx(-found.fun, abs=1e-3)  # the rounded corner
    assert amari_distance(ica.components_, np.linalg.inv(found.x[:9].reshape(3, 3))) < 2e-3


def gamma_ratio(beta):
    """alpha^2 at unit variance."""
    return np.exp(optimize.brentq(lambda a: np.log(stats.gennorm.var(beta, scale=np.exp(a / 2))), -3, 3))


def test_no_worse_than_the_peers():
    """Ten mixtures of eight sources with light, heavy and skewed tails; the peers as they come."""
    rows = np.array([measure("mixed", seed, 4000, 1)[2 : 2 + len(WAYS)] for seed in MIXTURES])
    ours, fastica, picard, _ = np.median(rows, axis=0)
    assert ours <= min(fastica, picard)


def test_every_start_leaves_the_symmetric_saddle():
    """Equal sources, symmetrically mixed: their principal axes lie as wrong as can be, and F is flat there."""
    X = np.random.default_rng(0).laplace(size=(3000, 2)) @ np.array([[1.0, 0.7], [0.7, 1.0]])
    for seed in range(10):
        for options in ({}, {"density": "laplace"}, {"density": "logistic"}):
            ica = LDMICA(random_state=seed, **options).fit(X)
            assert amari_distance(ica.components_, np.array([[1.0, 0.7], [0.7, 1.0]])) < 0.03


def test_skewed_sources():
    rng = np.random.default_rng(0)
    S = np.stack([rng.exponential(size=5000), rng.exponential(size=5000), rng.logistic(size=5000)], axis=1)
    ica = LDMICA(random_state=0).fit(S @ MIXING.T)
    assert amari_distance(ica.components_, MIXING) < 0.03
    skewed = np.argsort(-np.abs(stats.skew(ica.transform(S @ MIXING.T))))[:2]
    assert (np.abs(ica.location_[skewed]) > 0.1).all()


def test_shape_follows_the_source():
    rng = np.random.default_rng(0)
    S = np.stack([stats.gennorm.rvs(beta, size=20000, random_state=rng) for beta in (1.3, 4.0)], axis=1)
    ica = LDMICA(random_state=0).fit(S @ MIXING[:2, :2].T)
    beta = ica.shape_[np.abs(ica.components_ @ MIXING[:2, :2]).argmax(0)]
    np.testing.assert_allclose(beta, [1.3, 4.0], rtol=0.1)


def test_gauge(sources):
    """Ordered by the variance explained, turned by the mixing; scaled as the density asks for; and back again."""
    X = sources @ MIXING.T + [5.0, 0.0, -3.0]
    ica = LDMICA(density="laplace", random_state=3).fit(X)
    Z = ica.transform(X)
    np.testing.assert_allclose(Z.mean(0), 0, atol=1e-12)
    assert abs(Z[:, 0]).mean() == pytest.approx(np.sqrt(0.5), rel=0.01)  # Laplace's at unit variance
    explained = (ica.mixing_**2).sum(0) * Z.var(0)
    assert (np.diff(explained) < 0).all()
    assert (ica.mixing_[abs(ica.mixing_).argmax(0), range(3)] > 0).all()
    np.testing.assert_allclose(ica.components_ @ ica.mixing_, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(ica.inverse_transform(Z), X, atol=1e-10)
    assert list(ica.get_feature_names_out()) == ["ldmica0", "ldmica1", "ldmica2"]


def test_units_do_not_matter(sources):
    X = sources @ MIXING.T
    one = LDMICA(random_state=0, tol=1e-9).fit(X)
    units = np.array([1e-7, 1.0, 1e6])
    other = LDMICA(random_state=0, tol=1e-9).fit(X * units)
    assert amari_distance(other.components_ * units, one.mixing_) < 1e-5
    assert other.log_likelihood_ + np.log(units).sum() == pytest.approx(one.log_likelihood_, abs=1e-6)


def test_what_the_data_do_not_span(sources):
    """A constant column and one that repeats others add no source."""
    X = sources @ MIXING.T
    wide = np.column_stack([X, np.full(len(X), 7.0), X[:, 0] - 2 * X[:, 1]])
    ica = LDMICA(random_state=0).fit(wide)
    assert ica.components_.shape == (3, 5)
    assert amari_distance(ica.components_ @ wide_map(), MIXING) < 0.03
    np.testing.assert_allclose(ica.inverse_transform(ica.transform(wide)), wide, atol=1e-8)


def wide_map():
    return np.vstack([np.eye(3), np.zeros(3), [1.0, -2.0, 0.0]])


def test_fewer_components_keep_the_largest_axes(sources):
    X = sources @ MIXING.T
    X = np.column_stack([X, 1e-3 * np.random.default_rng(0).standard_normal((len(X), 2))])
    ica = LDMICA(n_components=3, random_state=0).fit(X)
    assert amari_distance(ica.components_[:, :3], MIXING) < 0.03
    assert LDMICA(n_components=1, random_state=0).fit(X).transform(X).shape == (len(X), 1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fewer_samples_than_features():
    ica = LDMICA(random_state=0).fit(np.random.default_rng(0).standard_normal((12, 40)))
    assert ica.components_.shape == (11, 40)
    assert np.isfinite(ica.components_).all()


def test_convergence_is_told(sources):
    with pytest.warns(ConvergenceWarning) as told:
        ica = LDMICA(max_iter=2, random_state=0).fit(sources @ MIXING.T)
    assert not ica.converged_
    assert ica.n_iter_ == 2
    (line,) = [str(one.message) for one in told]
    assert line.startswith("LDMICA has not converged in 2 iterations: another step promises ")
    assert line.endswith(" nats, tol is 0.0001; raise max_iter, or choose a density closer to the sources'")
    assert told[0].filename == __file__


def test_known_variances_against_every_angle():
    rng = np.random.default_rng(0)
    variances = np.array([0.2, 2.0])
    X = rng.standard_normal((500, 2)) * np.sqrt(variances) @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    ica = LDMICA(density="gaussian_known_variance", variances=variances).fit(X)

    def likelihood(angle):
        W = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        return stats.norm.logpdf((X - X.mean(0)) @ W.T, scale=np.sqrt(variances)).sum(1).mean()

    best = max(likelihood(angle) for angle in np.linspace(0, np.pi, 3001))
    assert ica.log_likelihood_ == pytest.approx(best, abs=1e-5)
    assert ica.log_likelihood_ >= best


def test_known_variances_keep_volume_and_order():
    rng = np.random.default_rng(1)
    variances = np.array([1.0, 9.0, 0.25, 3.0])
    Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    S = rng.standard_normal((200_000, 4)) * np.sqrt(variances)
    ica = LDMICA(density="gaussian_known_variance", variances=variances).fit(S @ Q.T)
    np.testing.assert_allclose(ica.components_ @ ica.components_.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(abs(ica.components_ @ Q), np.eye(4), atol=0.02)
    assert (ica.converged_, ica.n_iter_) == (True, 1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"density": "cauchy"},
            "density is 'cauchy'; it must be one of generalized_gaussian, logistic, laplace, gaussian_known_variance",
        ),
        ({"shape": 0.5}, "shape is 0.5; it must be a number from 1 to 12"),
        ({"shape": np.nan}, "shape is nan; it must be a number from 1 to 12"),
        ({"shape": 50}, "shape is 50; it must be a number from 1 to 12"),
        ({"shape": "4"}, "shape is '4'; it must be a number from 1 to 12"),
        ({"n_components": 2.5}, "n_components is 2.5; it must be a whole number or None"),
        ({"n_components": "mle"}, "n_components is 'mle'; it must be a whole number or None"),
        ({"tol": "a"}, "tol is 'a' and max_iter 200; tol must be above 0, max_iter a whole number from 1"),
        ({"max_iter": 2.5}, "tol is 0.0001 and max_iter 2.5; tol must be above 0, max_iter a whole number from 1"),
        (
            {"density": "gaussian_known_variance", "variances": ["a", 1, 2]},
            "variances must be 3 positive numbers, one for each feature of the data",
        ),
        ({"density": "laplace", "shape": 4}, "shape is 4; density laplace has none, leave it out"),
        ({"variances": [1, 2, 3]}, "variances go with density gaussian_known_variance, and only with it"),
        (
            {"density": "gaussian_known_variance"},
            "variances go with density gaussian_known_variance, and only with it",
        ),
        (
            {"density": "gaussian_known_variance", "variances": [1, 2]},
            "variances must be 3 positive numbers, one for each feature of the data",
        ),
        (
            {"density": "gaussian_known_variance", "variances": [1, 2, 0]},
            "variances must be 3 positive numbers, one for each feature of the data",
        ),
        (
            {"density": "gaussian_known_variance", "variances": [1, 2, 2]},
            "variances must differ: Gaussian sources of equal variance look the same when rotated",
        ),
        (
            {"density": "gaussian_known_variance", "variances": [1, 2, 3], "n_components": 2},
            "n_components is 2; with known variances it is 3, the number of features",
        ),
        ({"n_components": 4}, "n_components is 4; the data have 3 dimensions, choose 1 to 3"),
        ({"n_components": 0}, "n_components is 0; the data have 3 dimensions, choose 1 to 3"),
        ({"tol": 0}, "tol is 0 and max_iter 200; tol must be above 0, max_iter a whole number from 1"),
        ({"max_iter": 0}, "tol is 0.0001 and max_iter 0; tol must be above 0, max_iter a whole number from 1"),
    ],
)
def test_options_that_cannot_be_used(sources, options, line):
    with pytest.raises(InputError) as refused:
        LDMICA(**options).fit(sources)
    assert str(refused.value) == line


def test_data_that_cannot_be_used(sources):
    with pytest.raises(InputError, match=r"^the data have no variance; ICA needs samples that differ$"):
        LDMICA().fit(np.ones((10, 3)))
    sources[5, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        LDMICA().fit(sources)


def test_amari_distance():
    permuted = np.array([[0.0, -3.0, 0.0], [0.0, 0.0, 0.1], [2.0, 0.0, 0.0]])
    assert amari_distance(permuted, np.eye(3)) == 0
    assert amari_distance(np.ones((3, 3)), np.eye(3)) == 1
    assert amari_distance(np.array([[1.0, 0.1], [-0.1, 1.0]]), np.eye(2)) == pytest.approx(0.1)


def test_the_largest_shape_that_can_be_asked_for_converges(sources):
    assert LDMICA(shape=12.0, random_state=0).fit(np.tanh(sources) @ MIXING.T).converged_


@pytest.mark.parametrize("shapes", [((2, 3), (2, 2)), ((3, 2), (3, 2)), ((1, 1), (1, 1)), ((4,), (4,))])
def test_amari_distance_of_what_is_no_pair_of_maps(shapes):
    with pytest.raises(InputError, match="they must be"):
        amari_distance(*map(np.ones, shapes))
