import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.support.ranks import run_ranks
from trainer.losses import attention_loss, gather_embeddings, negative_cosine_similarity, nt_xent, vicreg_loss

try:
    import lightly.loss as lightly_loss
except ImportError:
    lightly_loss = None

needs_lightly = pytest.mark.skipif(lightly_loss is None, reason="lightly is not installed")


def random_embeddings(n=8, dimensions=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dimensions, generator=generator, dtype=dtype) for _ in range(2)]


def reference_loss(z1, z2, temperature):
    """Compute equation 1 of Chen et al. 2020 pair by pair in NumPy; return the sum of the two views' means."""
    z = np.concatenate([z1, z2])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z1)
    losses = []
    for i in range(2 * n):
        similarities = [z[i] @ z[k] / temperature for k in range(2 * n)]
        positive = similarities[(i + n) % (2 * n)]
        others = np.log(np.sum([np.exp(similarity) for k, similarity in enumerate(similarities) if k != i]))
        losses.append(others - positive)
    return np.mean(losses[:n]) + np.mean(losses[n:])


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_nt_xent_is_equation_1(n, temperature):
    z1, z2 = random_embeddings(n)
    expected = reference_loss(z1.double().numpy(), z2.double().numpy(), temperature)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert nt_xent(z1, z2, temperature, "mean").item() == pytest.approx(expected / 2, rel=1e-5, abs=1e-6)


@needs_lightly
def test_nt_xent_equals_lightly():
    z1, z2 = random_embeddings(16, 32)
    assert nt_xent(z1, z2, 0.1, "mean").item() == pytest.approx(lightly_loss.NTXentLoss(0.1)(z1, z2).item(), rel=1e-5)


def test_nt_xent_is_invariant_to_scale_and_order_of_views():
    z1, z2 = random_embeddings()
    torch.testing.assert_close(nt_xent(z1, z2), nt_xent(7 * z1, 0.1 * z2))
    torch.testing.assert_close(nt_xent(z1, z2), nt_xent(z2, z1))


def test_nt_xent_is_computed_in_float32_under_autocast():
    z1, z2 = random_embeddings()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1.bfloat16(), z2.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(z1.bfloat16().float(), z2.bfloat16().float()))


@pytest.mark.parametrize(("z1", "z2"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_embeddings_of_different_shapes_are_rejected(z1, z2):
    with pytest.raises(ValueError, match=r"expected embeddings \[n, D\] of two views, found \["):
        nt_xent(torch.ones(z1), torch.ones(z2))


def test_unknown_reduction_is_rejected():
    with pytest.raises(ValueError, match="expected sum_of_views or mean, found 'sum'"):
        nt_xent(*random_embeddings(), reduction="sum")


def test_defaults_of_nt_xent_are_those_of_simclr():
    z1, z2 = random_embeddings()
    assert torch.equal(nt_xent(z1, z2), nt_xent(z1, z2, temperature=0.1, reduction="sum_of_views"))


def test_gathering_without_a_process_group_changes_nothing():
    embeddings = random_embeddings()[0]
    gathered, own_rows = gather_embeddings(embeddings)
    assert gathered is embeddings
    assert own_rows.tolist() == list(range(8))


def make_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 4))


def loss_and_gradients(model, images, rows):
    loss = nt_xent(model(images[0][rows]), model(images[1][rows]))
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def contrastive_rank(rank, world_size):
    """Return this rank's loss, and the gradients that all ranks share."""
    n = 8 // world_size
    model = DistributedDataParallel(make_network())
    loss, gradients = loss_and_gradients(model, random_embeddings(8, 6, seed=1), slice(rank * n, (rank + 1) * n))
    return loss.item(), [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_nt_xent_and_gradients_over_ranks_are_those_of_one_process(world_size):
    expected_loss, expected_gradients = loss_and_gradients(make_network(), random_embeddings(8, 6, seed=1), slice(None))
    results = run_ranks(world_size, contrastive_rank)
    assert np.mean([loss for loss, _ in results]) == pytest.approx(expected_loss.item(), rel=1e-6)
    for _, gradients in results:
        for gradient, expected in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_attention_loss_is_the_weighted_difference_of_kld_and_nss():
    prediction, target = torch.rand(2, 2, 8, 8)
    points = [np.array([[0.1, 0.2, 1.0]]), np.zeros((0, 3))]
    terms = attention_loss(prediction, target, points, kld_weight=2.0, nss_weight=0.5)
    p, q = (maps.flatten(1) / maps.flatten(1).sum(1, keepdim=True) for maps in (prediction, target))
    torch.testing.assert_close(terms.kld, F.kl_div(p.log(), q, reduction="batchmean"), rtol=1e-4, atol=1e-5)
    first = prediction[0]
    z = (first[1, 0] - first.mean()) / first.std(correction=0)
    torch.testing.assert_close(terms.nss, z)  # the image without points is excluded
    torch.testing.assert_close(terms.loss, 2 * terms.kld - 0.5 * terms.nss)


def test_defaults_of_the_attention_loss_are_those_of_the_paper():
    terms = attention_loss(*attention_example())
    torch.testing.assert_close(terms.loss, terms.kld - 0.1 * terms.nss)


def test_nss_is_0_if_no_image_has_points():
    prediction, target, _ = attention_example()
    terms = attention_loss(prediction.requires_grad_(), target, [np.zeros((0, 2))] * 6)
    assert terms.nss.item() == 0
    assert torch.equal(terms.loss, terms.kld)
    terms.loss.backward()
    assert prediction.grad.isfinite().all()


def test_attention_loss_is_computed_in_float32_under_autocast():
    prediction, target, points = attention_example()
    prediction, target = prediction.bfloat16(), target.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        terms = attention_loss(prediction, target, points)
    assert all(term.dtype == torch.float32 for term in terms)
    assert terms == attention_loss(prediction.float(), target.float(), points)


def attention_example():
    """Return predictions, targets and points of six images: the first three have points, of the others only one."""
    generator = torch.Generator().manual_seed(3)
    points = [np.array([[0.1 * index, 0.3]]) if index < 4 else np.zeros((0, 2)) for index in range(6)]
    return torch.rand(6, 8, 8, generator=generator), torch.rand(6, 8, 8, generator=generator), points


def attention_terms_and_gradient(with_points, rank=0, world_size=1):
    """Return loss, KLD and NSS of this rank's images, and the loss's gradient with respect to its predictions."""
    prediction, target, points = attention_example()
    points = [found if index in with_points else np.zeros((0, 2)) for index, found in enumerate(points)]
    n = 6 // world_size
    rows = slice(rank * n, (rank + 1) * n)
    prediction = prediction[rows].requires_grad_()
    terms = attention_loss(prediction, target[rows], points[rows])
    terms.loss.backward()
    return [term.item() for term in terms], prediction.grad.numpy()


@pytest.mark.parametrize("world_size", [2, 3, 6])
@pytest.mark.parametrize("with_points", [range(4), [1], [2, 3], []])
def test_attention_loss_and_gradients_over_ranks_are_those_of_one_process(with_points, world_size):
    """Ranks differ in the number of images with points, and some have none."""
    expected_terms, expected_gradient = attention_terms_and_gradient(with_points)
    terms, gradients = zip(*run_ranks(world_size, attention_terms_and_gradient, with_points), strict=True)
    np.testing.assert_allclose(np.mean(terms, 0), expected_terms, rtol=1e-5)
    gradient = np.concatenate(gradients) / world_size  # the loss is the mean over ranks
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def vicreg_terms_and_gradient(rank=0, world_size=1):
    """Return the terms of this rank, and the gradient with respect to its embeddings of the first view."""
    n = 16 // world_size
    z1, z2 = (z[rank * n : (rank + 1) * n].clone().requires_grad_() for z in random_embeddings(16, 6))
    terms = vicreg_loss(z1, z2)
    terms.loss.backward()
    return [term.item() for term in terms], z1.grad.numpy()


def lightly_vicreg(rank=0, world_size=1):
    n = 16 // world_size
    z1, z2 = (z[rank * n : (rank + 1) * n] for z in random_embeddings(16, 6))
    return lightly_loss.VICRegLoss(gather_distributed=world_size > 1)(z1, z2).item()


@needs_lightly
@pytest.mark.parametrize(("n", "dimensions", "scale"), [(16, 6, 1.0), (4, 32, 0.3), (2, 3, 5.0)])
def test_vicreg_loss_equals_lightly(n, dimensions, scale):
    z1, z2 = (scale * z for z in random_embeddings(n, dimensions))
    assert vicreg_loss(z1, z2).loss.item() == pytest.approx(lightly_loss.VICRegLoss()(z1, z2).item(), rel=1e-5)
    weights = {"lambda_param": 2.0, "mu_param": 3.0, "nu_param": 0.5}
    expected = lightly_loss.VICRegLoss(**weights)(z1, z2).item()
    assert vicreg_loss(z1, z2, 2.0, 3.0, 0.5).loss.item() == pytest.approx(expected, rel=1e-5)


@needs_lightly
def test_vicreg_loss_over_ranks_equals_lightly():
    found = [terms[0] for terms, _ in run_ranks(2, vicreg_terms_and_gradient)]
    assert found == pytest.approx(run_ranks(2, lightly_vicreg), rel=1e-5)


def test_vicreg_terms_are_those_of_the_paper():
    z1, z2 = random_embeddings(16, 6, dtype=torch.float64)
    terms = vicreg_loss(z1, z2)
    assert terms.invariance.item() == pytest.approx(np.mean((z1 - z2).numpy() ** 2), rel=1e-5)
    lacking = [np.maximum(0, 1 - np.sqrt(np.var(z.numpy(), axis=0, ddof=1) + 1e-4)).mean() for z in (z1, z2)]
    assert terms.variance.item() == pytest.approx(np.mean(lacking), rel=1e-5)
    covariances = [np.cov(z.numpy().T) for z in (z1, z2)]
    redundancies = [(covariance[~np.eye(6, dtype=bool)] ** 2).sum() / 6 for covariance in covariances]
    assert terms.covariance.item() == pytest.approx(np.sum(redundancies), rel=1e-5)
    expected = 25 * terms.invariance + 25 * terms.variance + terms.covariance
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 4])
def test_vicreg_loss_and_gradients_over_ranks_are_those_of_one_process(world_size):
    expected_terms, expected_gradient = vicreg_terms_and_gradient()
    terms, gradients = zip(*run_ranks(world_size, vicreg_terms_and_gradient), strict=True)
    np.testing.assert_allclose(np.mean(terms, 0), expected_terms, rtol=1e-5)
    gradient = np.concatenate(gradients) / world_size  # the loss is the mean over ranks
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_vicreg_loss_rejects_embeddings_of_different_shapes():
    with pytest.raises(ValueError, match=r"expected embeddings \[n, D\] of two views, found \[4, 3\] and \[4, 2\]"):
        vicreg_loss(torch.ones(4, 3), torch.ones(4, 2))


@needs_lightly
def test_negative_cosine_similarity_equals_lightly():
    prediction, target = random_embeddings(16, 32)
    expected = lightly_loss.NegativeCosineSimilarity()(prediction, target).item()
    assert negative_cosine_similarity(prediction, target).item() == pytest.approx(expected, rel=1e-5)


def test_negative_cosine_similarity_has_no_gradient_with_respect_to_the_target():
    prediction, target = (z.requires_grad_() for z in random_embeddings())
    negative_cosine_similarity(prediction, target).backward()
    assert prediction.grad.any()
    assert target.grad is None


@pytest.mark.parametrize(
    "loss", [lambda *views: vicreg_loss(*views).loss, negative_cosine_similarity], ids=["vicreg", "cosine"]
)
def test_losses_of_other_objectives_are_computed_in_float32_under_autocast(loss):
    z1, z2 = (z.bfloat16() for z in random_embeddings())
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(z1, z2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(z1.float(), z2.float()))
