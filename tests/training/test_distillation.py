"""Learning from a teacher: the losses are their formulas, and ranks together compute what one does, in fp64."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from models.tiny_hybrids import make_hybrid
from models.tiny_models import gradients_of, make_model, make_tokens
from ranks import run_ranks
from torch.nn.functional import cross_entropy, kl_div
from watching import Largest

import ringattn
from ringattn.data.sequence import Sequence
from ringattn.layers.linear.context import Context
from ringattn.training.distillation import Guesses, Mixers, Teacher, train_mixers_alone
from ringattn.training.loss import IGNORE, Guide, chunked_distillation
from ringattn.training.reader import SequenceReader

LENGTH, DOCUMENTS = 25, (0, 9, 25)


def inputs():
    random = torch.Generator().manual_seed(0)
    shapes = ((23, 5), (11, 5), (23, 7), (11, 7))
    hidden, weight, their_hidden, their_weight = (
        torch.randn(shape, dtype=torch.float64, generator=random) for shape in shapes
    )
    labels = torch.randint(0, 11, (23,), generator=random)
    labels[[0, 7, 8, 22]] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), labels, their_hidden, their_weight


def logits_of(hidden, weight, cap):
    logits = hidden @ weight.T
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("caps", [(None, None), (2.0, 3.0)])
@pytest.mark.parametrize(("share", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.3, 2.5), (1.0, 0.5)])
def test_loss_and_gradients_are_the_formula_s(share, temperature, caps):
    hidden, weight, labels, their_hidden, their_weight = inputs()
    kept = labels != IGNORE
    own, theirs = logits_of(hidden, weight, caps[0])[kept], logits_of(their_hidden, their_weight, caps[1])[kept]
    apart = kl_div(
        (own / temperature).log_softmax(-1), (theirs / temperature).log_softmax(-1), reduction="sum", log_target=True
    )
    expected = (1 - share) * cross_entropy(own, labels[kept], reduction="sum") + share * temperature**2 * apart
    wanted = torch.autograd.grad(0.3 * expected, (hidden, weight))
    for chunk in (1, 8, 100):
        guide = Guide(their_hidden, their_weight, share, temperature, caps[1])
        found = chunked_distillation(hidden, weight, labels, guide, chunk=chunk, softcap=caps[0])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for gradient, one in zip(torch.autograd.grad(0.3 * found, (hidden, weight)), wanted, strict=True):
            torch.testing.assert_close(gradient, one, rtol=1e-11, atol=1e-12)


def test_no_logits_exist_whole():
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    guide = Guide(torch.randn(64, 4), torch.randn(100, 4), 0.5, 2.0)
    with Largest() as largest:
        chunked_distillation(hidden, weight, torch.zeros(64, dtype=torch.int64), guide, chunk=8).backward()
    assert largest.elements == 8 * 100


def test_a_teacher_of_other_words_is_refused():
    hidden, weight, labels, their_hidden, their_weight = inputs()
    with pytest.raises(ValueError, match="23 and 23 tokens, 10 and 11 words: give a teacher with the student's"):
        chunked_distillation(hidden, weight, labels, Guide(their_hidden, their_weight[1:], 0.5, 1.0))


def sequence():
    tokens = make_tokens(1, LENGTH).numpy().astype(np.int64)
    targets = np.roll(tokens, -1, axis=1)
    targets[0, [3, 8, 24]] = IGNORE
    return Sequence(inputs=tokens, targets=targets, documents=DOCUMENTS)


def models():
    """A hybrid and a teacher of as many layers and channels."""
    teacher = make_model("llama", hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1)
    return make_hybrid(), teacher


def learn(rank, pairs, match, recompute):
    """The summed loss and gradients on this rank of several."""
    student, taught = pairs[rank]
    sp = ringattn.SequenceParallel(schedule="tokenring", layout="zigzag")
    student, teacher = ringattn.parallelize(student, sp), Teacher(taught, sp)
    if match == "mixers":
        train_mixers_alone(student)
    way = Mixers(student, teacher, recompute=recompute) if match == "mixers" else Guesses(teacher, 0.4, 1.5)
    reader = SequenceReader(student, sp, device=torch.device("cpu"), chunk=5, learn=way)
    loss = reader.loss_sum(sequence())
    loss.backward()
    total, gradients = loss.detach(), gradients_of(student)
    for tensor in (total, *gradients.values()):
        dist.all_reduce(tensor)
    return total, gradients


def alone(match):
    """The same by the definition, each document by itself."""
    student, teacher = models()
    student.set_attn_implementation("sdpa")
    labels = torch.from_numpy(sequence().targets)[0]
    kept, tokens = labels != IGNORE, torch.from_numpy(sequence().inputs)
    parts = [slice(0, 9), slice(9, 25)]
    if match == "logits":
        own = torch.cat([student(tokens[:, part], use_cache=False).logits[0] for part in parts])[kept]
        with torch.no_grad():
            theirs = torch.cat([teacher(tokens[:, part], use_cache=False).logits[0] for part in parts])[kept]
        apart = kl_div((own / 1.5).log_softmax(-1), (theirs / 1.5).log_softmax(-1), reduction="sum", log_target=True)
        total = 0.6 * cross_entropy(own, labels[kept], reduction="sum") + 0.4 * 1.5**2 * apart
    else:
        train_mixers_alone(student)
        seen = {}
        for number, layer in enumerate(teacher.model.layers):
            layer.self_attn.register_forward_hook(
                lambda module, args, given, out, number=number: seen.update({number: (given["hidden_states"], out[0])}),
                with_kwargs=True,
            )
        found = []
        for part in parts:
            seen.clear()
            with torch.no_grad():
                teacher(tokens[:, part], use_cache=False)
            for number in (0, 2):
                entering, wanted = seen[number]
                out = student.model.layers[number].mixer(entering, context=Context.alone(part.stop - part.start))
                found.append((number, (out - wanted)[0][kept[part]], wanted[0][kept[part]]))
        total = torch.zeros((), dtype=torch.float64)
        for number in (0, 2):
            apart = sum(error.square().sum() for layer, error, _ in found if layer == number)
            total = total + apart / sum(wanted.square().sum() for layer, _, wanted in found if layer == number)
        total = total * kept.sum() / 2
    total.backward()
    return total.detach(), gradients_of(student)


@pytest.mark.parametrize(
    ("match", "world", "recompute"),
    [("logits", 2, False), ("mixers", 1, False), ("mixers", 2, False), ("mixers", 3, True)],
)
def test_ranks_learn_what_one_process_does(match, world, recompute):
    expected, gradients = alone(match)
    assert gradients and all(("mixer" in name) or match == "logits" for name in gradients)
    pairs = [copy.deepcopy(models()) for _ in range(world)]
    for total, found in run_ranks(world, learn, pairs, match, recompute, threads=True):
        torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            limit = 1e-9 * float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")


def test_layers_that_do_not_correspond_are_refused():
    sp = ringattn.SequenceParallel()
    student = ringattn.parallelize(make_hybrid(), sp)
    with pytest.raises(ValueError, match=r"hybrid's 4 layers learns from .* which has 2 layers"):
        Mixers(student, Teacher(make_model("llama", hidden_size=16), sp))
