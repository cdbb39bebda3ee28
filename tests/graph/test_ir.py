"""The interpreter of steps: in order, freeing what is no longer needed."""

import gc
import weakref

import torch

from rdnlib.graph.ir import Call, Slot, Step, run

DOUBLE = Call(torch.add, (Slot(0), Slot(1)), {})


def chain(*inputs):
    return [Step(f"v{index}", names, "add", function=DOUBLE) for index, names in enumerate(inputs)]


def test_a_step_may_read_a_value_twice_and_values_are_read_by_name():
    steps = chain(("x", "x"), ("v0", "x"), ("v0", "v1"))
    assert run(steps, {"x": torch.tensor(1.0)}) == 5


def test_values_are_freed_after_their_last_use():
    alive = []

    def call(step, *inputs):
        gc.collect()
        alive.append([made for made in made_by if made_by[made]() is not None])
        output = step.apply(*inputs)
        made_by[step.name] = weakref.ref(output)
        return output

    made_by = {}
    run(chain(("x", "x"), ("v0", "x"), ("v1", "v1"), ("v2", "v2")), {"x": torch.tensor(1.0)}, call)
    assert alive == [[], ["v0"], ["v1"], ["v2"]]


def test_the_input_values_given_stay_as_they_are():
    values = {"x": torch.tensor(1.0)}
    run(chain(("x", "x")), values)
    assert list(values) == ["x"]
