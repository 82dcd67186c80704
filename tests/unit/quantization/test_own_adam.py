import torch
from torch import nn

from lissom.quantization.own_adam import OwnAdam


def run(adam: OwnAdam, parameter: nn.Parameter, steps: range) -> None:
    for step in steps:
        (parameter - 3).square().sum().backward()
        adam.step(0.1, step / 20)


def test_a_resumed_course_is_the_same() -> None:
    whole = nn.Parameter(torch.zeros(2))
    run(OwnAdam([whole]), whole, range(20))
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    before, after = OwnAdam([first]), OwnAdam([second])
    run(before, first, range(8))
    second.data.copy_(first.data)
    after.load_state_dict(before.state_dict())
    run(after, second, range(8, 20))
    assert torch.equal(second, whole)
    assert float((whole.detach() - 3).abs().max()) < 2
    assert second.grad is None


def test_the_rate_falls_to_nothing() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    adam = OwnAdam([parameter])
    parameter.grad = torch.ones(1)
    adam.step(0.1, 1.0)
    assert float(parameter.detach()) == 0


def test_nothing_to_learn_is_fine() -> None:
    adam = OwnAdam([])
    adam.step(0.1, 0.5)
    adam.load_state_dict(adam.state_dict())
    assert adam.state_dict() == {}
