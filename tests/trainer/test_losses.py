import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.support.ranks import run_ranks
from trainer.losses import attention_loss, gather_embeddings, nt_xent


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


def test_nt_xent_equals_lightly():
    lightly_loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")
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
