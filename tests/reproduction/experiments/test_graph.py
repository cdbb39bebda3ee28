"""The graph of experiments, and the variants behind Tables 3 to 5: what differs from the reference, and what is trained."""

import pytest
import torch
from support.networks import make
from support.profiles import TINY

from rdnlib.errors import ConfigError
from rdnlib.reproduction.experiments import graph, open_workspace
from rdnlib.reproduction.experiments.ablation_nets import SomeSubnetworks, reinitialise
from rdnlib.reproduction.experiments.config import Architecture, Profile, RecipeSettings, Variant, load_profile
from rdnlib.training.loss import joint_loss


@pytest.fixture(scope="module")
def profile():
    return load_profile("laptop")


def changes(profile, name):
    """Settings in which an experiment differs from the reference."""
    nodes = graph.experiments(profile, 0)
    ours, theirs = nodes[name].config, nodes[graph.reference(profile)].config
    flat = [{**config, **config["recipe"]} for config in (ours, theirs)]
    keys = set(flat[0]) | set(flat[1])
    return {key for key in keys - {"recipe"} if flat[0].get(key) != flat[1].get(key)}


def test_every_variant_differs_in_one_thing(profile):
    profile = profile.like(profile.settings() | {"ablations": profile.ablations.settings() | {"lengths": [0, 1, 4]}})
    scratch = {"init", "model", "select", "calibration_images"}  # without a super-net nothing is selected …
    scratch |= {"distill", "teacher", "teach_largest"}  # … and nobody teaches
    assert changes(profile, "rdn-scratch") == scratch
    assert changes(profile, "rdn-scratch-longer") == scratch | {"epochs"}
    both = graph.experiments(profile, 0)["rdn-scratch-longer"].config["recipe"]["epochs"]
    assert both == profile.base.epochs + profile.ablations.epochs  # as long as the super-net and the reference together
    assert changes(profile, "rdn-greedy") == changes(profile, "rdn-random") == {"select"}
    assert changes(profile, "rdn-without-lightest") == changes(profile, "rdn-only-largest") == {"trained"}
    assert changes(profile, "rdn-copy-1") == {"epochs"}
    assert changes(profile, "rdn-reconstruct-4") == {"init", "lr"}


@pytest.mark.parametrize("name", [TINY, "quick", "laptop"])
def test_every_row_of_every_table_is_an_experiment(name):
    profile = load_profile(name)
    nodes = graph.experiments(profile, 0)
    for table in (graph.table3, graph.table4, graph.table5):
        rows = table(profile)
        assert len(set(rows.values())) == 3 and graph.reference(profile) in rows.values()
        assert set(rows.values()) <= set(nodes)
    for epochs in graph.lengths(profile):
        assert not epochs or {graph.trained(profile, init, epochs) for init in ("copy", "reconstruct")} <= set(nodes)
    repeats = graph.repeats(profile)
    assert set(repeats) == set(nodes) and set(graph.levers(profile).values()) <= set(nodes)
    for name in graph.rivals(profile):
        assert repeats[name] == profile.seeds.main
    for name, node in nodes.items():  # each comes with all that it builds on
        assert all(repeats[parent] >= repeats[name] for parent in node.parents)


def test_variants_change_what_the_profile_says_and_nothing_else(profile):
    own = profile.model_copy(
        update={
            "variants": {
                "early": Variant(plain=0.1),
                "two": Variant(k=2),
                "equal": Variant(recipe=RecipeSettings(largest=None, lr=0.3)),
                "paper": Variant(plain=None, init="copy"),
            },
            "alone": [1, 3],
            "rdn": profile.rdn.model_copy(update={"plain": 0.4, "largest": 0.5}),
        }
    )
    nodes = graph.experiments(own, 0)
    reference = nodes["rdn-reconstruct"].config
    assert (reference["plain"], reference["recipe"]["largest"]) == (0.4, 0.5)
    assert nodes["rdn-early"].config == reference | {"plain": 0.1}
    assert nodes["rdn-two"].config == reference | {"k": 2}
    assert nodes["rdn-equal"].config == reference | {"recipe": reference["recipe"] | {"largest": None, "lr": 0.3}}
    assert nodes["rdn-paper"].config == reference | {"plain": None, "init": "copy"}
    alone = {key: value for key, value in reference["recipe"].items() if key != "teach_largest"}
    assert nodes[graph.alone(3)].config == reference | {"recipe": alone, "trained": [3]}
    assert "largest" not in nodes["base-longer"].config["recipe"]
    assert {"rdn-early", graph.alone(1)} <= set(graph.levers(own).values())


@pytest.mark.parametrize(("init", "other"), [("copy", "reconstruct"), ("reconstruct", "copy")])
def test_the_profile_says_which_rdn_is_the_main_one(profile, init, other):
    changed = {"rdn": profile.settings()["rdn"] | {"init": init}, "alone": [7], "variants": {"two": {"k": 2}}}
    own = profile.like(profile.settings() | changed | {"seeds": {"main": 3, "variants": 2}})
    nodes, repeats = graph.experiments(own, 0), graph.repeats(own)
    assert (graph.main_rdn(own), graph.main_policy(own)) == (f"rdn-{init}", f"policy-{init}")
    assert graph.other_start(own) == other
    for name in ("rdn-two", graph.alone(7)):
        made, main = (nodes[each].config for each in (name, f"rdn-{init}"))
        assert made["init"] == init and made["recipe"] == main["recipe"]
    assert graph.levers(own)["as it is"] == f"rdn-{init}"
    assert {repeats[graph.main_rdn(own)], repeats[graph.main_policy(own)]} == {3} and {
        repeats[f"{kind}-{other}"] for kind in ("rdn", "policy")
    } == {2}


def test_the_super_net_may_teach_all_but_the_largest(profile):
    taught = profile.settings()["rdn"] | {"distill": 0.5}
    variants = profile.settings()["variants"] | {"taught": {"recipe": {"distill": 0.9, "teacher": "supernet"}}}
    more = profile.settings() | {"alone": [1, 7], "variants": variants}
    own = profile.like(more | {"rdn": taught | {"teach_largest": False}})
    everyone = profile.like(more | {"rdn": {key: taught[key] for key in taught if key != "teach_largest"}})
    own, everyone = (graph.experiments(each, 0) for each in (own, everyone))
    for name in ("rdn-copy", "rdn-reconstruct", graph.reference(profile), "slimmable"):
        assert own[name].config["recipe"] == everyone[name].config["recipe"] | {"teach_largest": False}
    assert own["rdn-untaught"] == everyone["rdn-untaught"]  # nobody teaches: nothing is different
    assert own["rdn-taught"].config["recipe"]["teach_largest"] is False  # a variant with a teacher of its own
    assert own["rdn-everyone"].config == everyone["rdn-reconstruct"].config
    # what is taught among the others is taught alone
    assert own[graph.alone(1)] == everyone[graph.alone(1)] and own[graph.alone(7)] != everyone[graph.alone(7)]
    assert own["rdn-scratch"] == everyone["rdn-scratch"]


def test_without_a_section_there_are_no_ablations(profile):
    bare = profile.model_copy(update={"ablations": None})
    assert "slimmable" not in graph.experiments(bare, 0)
    assert set(graph.experiments(bare, 0)) < set(graph.experiments(profile, 0))
    with pytest.raises(ConfigError, match="profile laptop has no ablations"):
        graph.reference(bare)


def test_replicas_are_consecutive_seeds():
    workspace = open_workspace(TINY, seed=3)
    assert [replica.seed for replica in workspace.replicas(3)] == [3, 4, 5]
    assert workspace.replicas(2)[1].key("base") == open_workspace(TINY, seed=4).key("base")
    for wrong in (0, True, 1.5):
        with pytest.raises(ConfigError, match="seeds is how many"):
            graph.repeats(workspace.profile, wrong)
    assert set(graph.repeats(workspace.profile, 2).values()) == {2}


def test_from_scratch_keeps_the_structure_and_nothing_else(images):
    rdn = make("mixed", images)
    before = {name: value.clone() for name, value in rdn.state_dict().items()}
    reinitialise(rdn, seed=1)
    after = rdn.state_dict()
    for name, value in before.items():
        assert after[name].shape == value.shape
        if value.is_floating_point():
            assert not torch.equal(after[name], value), name
    reinitialise(rdn, seed=2)
    again = make("mixed", images, seed=5)
    reinitialise(again, seed=2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in rdn.state_dict().items())
    with torch.no_grad():  # signals neither vanish nor explode
        spread = rdn.train()(images).std(dim=0).mean()
    assert 1e-3 < spread < 10


def test_only_the_chosen_sub_networks_give_the_loss(images):
    rdn, labels = make("mobilenext", images).eval(), torch.arange(len(images)) % 6
    largest = SomeSubnetworks(rdn, [7])
    torch.testing.assert_close(largest(images)[:, 0], rdn(images)[:, 6])
    joint_loss(SomeSubnetworks(rdn, [2, 5])(images), labels).backward()
    owners = rdn.owners()
    frozen = {name for name, parameter in rdn.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in dict(rdn.named_parameters()) if name in owners and (owners[name] > 5).all()}
    gradients = {name: parameter.grad.clone() for name, parameter in rdn.named_parameters() if name not in frozen}
    rdn.requires_grad_(True).zero_grad()
    logits = rdn(images)
    ((joint_loss(logits[:, 1], labels) + joint_loss(logits[:, 4], labels)) / 2).backward()
    for name, parameter in rdn.named_parameters():
        expected = torch.zeros_like(parameter) if name in frozen else gradients[name]
        torch.testing.assert_close(expected, parameter.grad, rtol=1e-3, atol=1e-6, msg=name)
    assert all((gradients[n][owners[n] > 5] == 0).all() for n in gradients if n in owners)


@pytest.mark.parametrize("lr", [1e-4, 10.0])
def test_the_rdns_of_another_network_take_no_larger_steps_than_it_did(lr):
    quick = load_profile("quick")
    own = {"mobilenet_v2": Architecture(model={"width_mult": 0.25}, recipe={"lr": lr})}
    nodes = graph.experiments(quick.model_copy(update={"architectures": own}), 0)
    for name in ("rdn-mobilenet_v2", "depth-mobilenet_v2"):
        assert nodes[name].config["recipe"]["lr"] == min(lr, quick.rdn.lr[quick.rdn.init])
    assert nodes["depth-mobilenext"].config["recipe"]["lr"] == quick.rdn.lr[quick.rdn.init]


def main_of(profile: Profile) -> list[str]:
    """The experiments that are run at `seeds.main`, as keywords."""
    repeats = graph.repeats(profile.like(profile.settings() | {"seeds": {"main": 9}}))
    return [name.replace("-", "_") for name, count in repeats.items() if count == 9]


def test_the_complete_part_of_a_profile_has_nothing_that_is_missing():
    profile = load_profile("pretrained")
    every = graph.experiments(profile, 0)

    def part(missing: set[str] = frozenset(), **seeds: int) -> Profile:
        counts = {
            name: 0 if name in missing else seeds.get(name.replace("-", "_"), seeds.get("other", 1)) for name in every
        }
        found = graph.complete_part(profile, counts.__getitem__)
        assert all(counts[name] >= count for name, count in graph.repeats(found).items())
        assert {name: node for name, node in every.items() if name in graph.experiments(found, 0)} == graph.experiments(
            found, 0
        )
        return found

    groups = ("main", "alone", "ablations", "variants", "rest")
    assert part().settings() == profile.settings() | {"seeds": dict.fromkeys(groups, 1)}
    assert part().name == "pretrained" and part().source == profile.source
    assert part({"rdn-random"}).ablations is None and part({"rdn-random"}).variants.keys() == profile.variants.keys()
    assert [*part({"rdn-paper"}).variants] == ["earlier", "halves"]
    assert part({"alone-4"}).alone == [1]
    assert "alone" not in part({"alone-1", "alone-4"}).seeds.settings()
    assert "ablations" not in part({"rdn-random"}).seeds.settings()
    three = dict.fromkeys(groups, 3)
    assert part(other=3, rdn_copy=2, alone_1=1).seeds.settings() == three | {"alone": 1, "variants": 2, "rest": 2}
    assert part(other=3, rdn_random=1).seeds.settings() == three | {"ablations": 1, "rest": 1}
    assert part(other=3, rdn_paper=2).seeds.settings() == three | {"variants": 2, "rest": 2}
    assert part(other=3, base=2).seeds.settings() == dict.fromkeys(groups, 2)
    settings = profile.settings()
    settings["variants"]["earlier"]["seeds"] = 3
    profile = profile.like(settings | {"seeds": {"main": 3}})
    assert graph.repeats(profile)["rdn-earlier"] == 3 and graph.repeats(profile)["rdn-halves"] == 1
    found = part(other=1, **dict.fromkeys(main_of(profile), 3), rdn_earlier=2)
    assert (found.variants["earlier"].seeds, found.seeds.main, found.seeds.variants) == (2, 3, 1)
    assert part(other=1, rdn_earlier=3).variants["earlier"].seeds == 1
    with pytest.raises(ConfigError, match=r"not finished, though every book needs them: base-longer$"):
        part({"base-longer"})
