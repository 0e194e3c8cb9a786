"""A case small enough to check by hand, and what the dashboard makes of it."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.settings import PositionalSettings, settings_to_dict
from dsae_core.significance import RATE
from dsae_core.ui import sharing
from dsae_core.ui.charts.circuit_graph import circuit_graph, edge_paths, labelled
from dsae_core.ui.charts.curves import precision_recall, precision_recall_frame, ranked_scores, roc, roc_frame
from dsae_core.ui.charts.heatmap import heatmap
from dsae_core.ui.charts.style import NO_ROLE, STATUSES, Drawing, Grid, ticks
from dsae_core.ui.sections.header import doubt, introduction, sentence
from dsae_core.ui.sections.prompts import codes_frame, codes_table, facts
from dsae_core.ui.text import rate
from dsae_core.ui.view import FALSE_POSITIVE, FOUND, MISSED, OUTSIDE, TRUE_POSITIVE, View


def small_discovery(task: str = "ioi", *, top: float = 4.0) -> Discovery:
    """Two layers of two heads, two pairs of prompts, three positions of which the first is padding.

    Head 0.0 never has a code. Head 0.1 has one that no negative has: 4, in the second positive's last position.
    Head 1.0 has codes in positives only. Head 1.1 does the same everywhere.
    """
    codes = torch.full((4, 3, 4), -1, dtype=torch.int32)
    codes[:, 1:, 1] = torch.tensor([[3, 5], [3, 4], [3, 5], [2, 1]])
    codes[:2, 1:, 2] = torch.tensor([[7, 8], [7, 9]])
    codes[:, 1:, 3] = 6
    activations = torch.where(codes >= 0, 2.0, 0.0)
    activations[0, 2, 2] = 6.0
    pairs = torch.zeros(4, 4)
    for a, b, score in ((1, 2, 3.0), (2, 3, 1.0), (0, 2, 2.0)):
        pairs[a, b] = pairs[b, a] = score
    return Discovery(
        node_scores=torch.tensor([[0.0, 1.0], [top, 0.5]]),
        pair_scores=pairs,
        codes=codes,
        activations=activations,
        n_positive=2,
        tokens=(("", "a", "<b>"), ("", "a", "*c*"), ("", "a", "<i>"), ("", "x", "*c*")),
        settings=settings_to_dict("positional", 0, PositionalSettings()),
        timings={"collect": 0.5, "train": 1.5},
        provenance={"model": "smollm2-135m"},
        prompts=PromptPairs(("a<b>", "a*c*"), ("a<i>", "x*c*"), task=task),
    )


def small_truth() -> Circuit:
    """Heads 1.0 and 1.1 belong; patching 1.0 undoes a quarter of the behaviour."""
    return Circuit(
        name="measured",
        model="smollm2-135m",
        task="ioi",
        heads=((1, 0), (1, 1)),
        effects=((0.0, 0.01), (0.25, -0.05)),
        intervals=(((-0.01, 0.01), (0.0, 0.02)), ((0.2, 0.3), (-0.07, -0.03))),
    )


@pytest.fixture
def view() -> View:
    return View(small_discovery(), small_truth())


@pytest.fixture
def blind() -> View:
    """The same without a known circuit."""
    return View(small_discovery("custom"), None)


def test_heads_are_listed_layer_by_layer(view: View) -> None:
    heads = view.heads
    assert heads["name"].tolist() == ["0.0", "0.1", "1.0", "1.1"]
    assert heads["score"].tolist() == [0.0, 1.0, 4.0, 0.5]
    assert heads["rank"].tolist() == [4, 2, 1, 3]
    assert heads["unique_codes"].tolist() == [0, 1, 3, 0]
    assert heads["in_circuit"].tolist() == [False, False, True, True]
    assert heads["effect"].tolist() == [0.0, 1.0, 25.0, -5.0]
    assert heads["effect_in_words"][2] == "+25.0 % (95 % interval +20.0 to +30.0)"


def test_effects_are_empty_where_nothing_was_patched(blind: View) -> None:
    assert blind.heads["effect"].isna().all()
    assert set(blind.heads["effect_in_words"]) == {""}


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, [FALSE_POSITIVE, FALSE_POSITIVE, TRUE_POSITIVE, TRUE_POSITIVE]),
        (1.0, [OUTSIDE, FALSE_POSITIVE, TRUE_POSITIVE, MISSED]),
        (1.01, [OUTSIDE, OUTSIDE, TRUE_POSITIVE, MISSED]),
        (5.0, [OUTSIDE, OUTSIDE, MISSED, MISSED]),
    ],
)
def test_status_follows_the_threshold(view: View, threshold: float, expected: list[str]) -> None:
    assert view.at(threshold)["status"].tolist() == expected


def test_status_without_a_circuit_is_found_or_not(blind: View) -> None:
    assert blind.at(1.0)["status"].tolist() == [OUTSIDE, FOUND, FOUND, OUTSIDE]
    assert blind.confusion(1.0) is None
    assert blind.evaluation is None


def test_the_numbers_at_a_threshold(view: View) -> None:
    confusion = view.confusion(1.0)
    assert confusion is not None
    assert (confusion.precision, confusion.recall) == (0.5, 0.5)
    assert view.evaluation is not None
    assert view.evaluation.auc == 0.75  # of the four pairs of a head inside and one outside, only 1.1 < 0.1 is wrong


def test_the_threshold_starts_at_the_knee(view: View) -> None:
    # Ranked 4, 1, .5, 0; below the line 4, 2.67, 1.33, 0 lies 1 the furthest.
    assert view.step == pytest.approx(0.02)
    assert view.start == pytest.approx(1.0)
    assert View(small_discovery(top=400.0), None).step == pytest.approx(2.0)


def test_the_knee_of_equal_scores_is_no_threshold() -> None:
    discovery = small_discovery()
    flat = View(Discovery(torch.ones(2, 2), discovery.pair_scores, discovery.codes, discovery.activations, 2), None)
    assert flat.start == 0.0
    assert flat.at(flat.start)["status"].tolist() == [FOUND] * 4


def with_rates(rates: list[float]) -> View:
    """The small discovery with false discovery rates of one's own, head by head."""
    view = View(small_discovery(), small_truth())
    view.__dict__["heads"] = view.heads.assign(false_discovery_rate=rates)
    return view


def test_the_rate_at_a_threshold_is_that_of_its_worst_head() -> None:
    view = with_rates([1.0, 0.3, 0.02, 0.6])  # scores 0, 1, 4, .5
    assert view.rate(4.0) == 0.02
    assert view.rate(1.0) == 0.3
    assert view.rate(0.0) == 1.0
    assert view.rate(4.01) is None  # no head, no rate


def test_scores_without_rates_have_none(view: View) -> None:
    assert view.heads["false_discovery_rate"].isna().all()  # four heads are too few to tell
    assert view.rate(1.0) is None


def test_the_threshold_starts_where_the_rate_is_low_enough() -> None:
    assert with_rates([1.0, RATE, 0.02, 0.6]).start == pytest.approx(1.0)
    assert with_rates([1.0, 1.0, 0.02, 1.0]).start == pytest.approx(4.0)
    assert with_rates([1.0] * 4).start == pytest.approx(1.0)  # none is: the knee


def test_rates_in_words() -> None:
    assert [rate(value) for value in (0.0, 0.0049, 0.005, 0.17, 1.0)] == ["<.01", "<.01", ".01", ".17", "1.00"]


def test_edges_join_found_heads_strongest_first(view: View) -> None:
    assert view.edges(1.0, 10).to_dict("records") == [
        {"layer_a": 0, "head_a": 1, "layer_b": 1, "head_b": 0, "score": 3.0}
    ]
    assert view.edges(0.0, 10)["score"].tolist() == [3.0, 2.0, 1.0]
    assert view.edges(0.0, 2)["score"].tolist() == [3.0, 2.0]
    assert view.edges(5.0, 10).empty


def test_an_edge_runs_from_head_to_head_and_bends(view: View) -> None:
    paths = edge_paths(view.edges(0.0, 10), (0, 1), 2, 2)
    assert len(paths) == 12
    first = paths[paths["edge"] == 0]
    assert first[["layer", "head"]].iloc[[0, 3]].values.tolist() == [[0, 1], [1, 0]]
    straight = np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    assert (np.abs(first[["layer", "head"]].iloc[1:3].to_numpy() - straight) > 0.01).all()
    assert paths.groupby("edge")["lit"].first().tolist() == [True, False, False]
    assert first["width"].iloc[0] == pytest.approx(4.0)
    assert edge_paths(view.edges(0.0, 10), (9, 9), 2, 2)["lit"].all()  # a head without edges puts none out


def test_prompts_as_a_head_sees_them(view: View) -> None:
    rows = view.prompt_rows((1, 0))
    assert [(row.number, row.positive) for row in rows] == [(1, True), (1, False), (2, True), (2, False)]
    assert rows[0].codes == (7, 8)
    assert rows[0].activation == 6.0
    assert [(cell.text, cell.code, cell.activation) for cell in rows[0].cells] == [("a", 7, 2.0), ("<b>", 8, 6.0)]
    assert [cell.changed for cell in rows[0].cells] == [False, True]
    assert [cell.changed for cell in rows[3].cells] == [True, False]
    assert rows[1].codes == ()
    assert [row.codes for row in view.prompt_rows((0, 1))] == [(), (), (4,), ()]
    assert all(row.codes == () for row in view.prompt_rows((1, 1)))


def test_pooled_prompts_have_one_code_and_no_shading() -> None:
    whole = small_discovery()
    pooled = Discovery(
        whole.node_scores,
        whole.pair_scores,
        whole.codes[:, 2:],
        whole.activations[:, 2:],
        2,
        tokens=whole.tokens,
    )
    rows = View(pooled, None).prompt_rows((1, 0))
    assert [row.codes for row in rows] == [(8,), (), (9,), ()]
    assert all(cell.code is None for row in rows for cell in row.cells)
    table = codes_table(View(pooled, None).prompt_rows((1, 1)), pooled=True)
    assert table.count("6 (shared)") == 2
    assert "d-tok on" not in table


def test_the_table_escapes_tokens_and_marks_unique_codes(view: View) -> None:
    table = codes_table(view.prompt_rows((1, 0)), pooled=False)
    assert "&lt;b&gt;" in table
    assert "<b>" not in table
    assert table.count("d-tok on") + table.count("d-tok changed on") == 4
    assert "--a: 70%" in table  # the strongest
    assert 'title="code 7, activation 2.00"' in table


def test_the_table_as_data(view: View) -> None:
    frame = codes_frame(view, (1, 0))
    assert frame["prompt"].tolist() == ["a<b>", "a<i>", "a*c*", "x*c*"]
    assert frame["unique_codes"].tolist() == ["7 8", "", "7 9", ""]
    assert frame["activation"].tolist() == [6.0, 0.0, 2.0, 0.0]


def test_a_discovery_without_tokens_shows_codes_alone() -> None:
    whole = small_discovery()
    bare = Discovery(whole.node_scores, whole.pair_scores, whole.codes, whole.activations, 2)
    rows = View(bare, None).prompt_rows((1, 0))
    assert [row.cells for row in rows] == [()] * 4
    assert rows[0].codes == (7, 8)


def test_facts_name_what_is_known(view: View, blind: View) -> None:
    assert facts(view, (1, 0)).startswith(
        "Score 4.00, rank 1 of 4, 3 unique codes, counted at every position, in the circuit, patching effect +25.0 %"
    )
    assert facts(view, (1, 0)).endswith("+30.0) on the circuit's own pairs.")
    measured = dataclasses.replace(small_truth(), provenance={"prompts": 32})
    assert facts(View(view.discovery, measured), (1, 0)).endswith(" on the 32 pairs the circuit was measured on.")
    assert "circuit" not in facts(blind, (1, 0))


def test_the_headline_counts(view: View, blind: View) -> None:
    assert sentence(view, 1.0) == "2 prompt pairs point to 2 of 4 heads; 1 of them is in the measured circuit of 2."
    assert sentence(blind, 1.0) == "2 prompt pairs point to 2 of 4 heads."
    assert sentence(view, 99.0).startswith("No head of 4 reaches")
    nothing = View(small_discovery(top=0.0), None)
    assert "points" not in sentence(nothing, 1.0)
    empty = Discovery(torch.zeros(2, 2), torch.zeros(4, 4), nothing.discovery.codes, nothing.discovery.activations, 2)
    assert sentence(View(empty, None), 0.0) == "In 2 prompt pairs, no head has a code that only the positives produce."


def noisy(rate: float, *, truth: Circuit | None = None) -> View:
    """A result whose heads all have this rate of false discoveries."""
    view = View(small_discovery(), truth)
    view.heads["false_discovery_rate"] = rate
    return view


def test_noise_is_not_announced_as_a_finding() -> None:
    assert sentence(noisy(0.88), 0.5) == "No head stands out: of the 3 best, an estimated 3 are ordinary heads."
    assert sentence(noisy(0.3), 0.5) == "2 prompt pairs point to 3 of 4 heads."
    assert doubt(noisy(0.88), 0.5).startswith("No threshold gets down to an estimated 20% of ordinary heads")
    assert doubt(noisy(0.1), 0.5) == ""
    assert doubt(View(small_discovery(), None), 0.5) == "", "without rates nothing is known"


def test_an_estimate_that_the_known_circuit_contradicts_is_said_so() -> None:
    told = doubt(noisy(0.05, truth=small_truth()), 1.0)
    assert told.startswith("The estimate is off here: 1 of 2 found heads is outside the known circuit.")
    assert doubt(noisy(0.4, truth=small_truth()), 1.0) == ""
    assert doubt(noisy(0.05, truth=small_truth()), 99.0) == "", "nothing is found"


def test_one_found_head_is_told_in_the_singular(view: View) -> None:
    assert sentence(view, 4.0) == "2 prompt pairs point to 1 of 4 heads; it is in the measured circuit of 2."
    outside = View(view.discovery, Circuit("ioi.gpt2.x", "gpt2", "ioi", ((0, 0),)))
    assert sentence(outside, 4.0).endswith("; it is not in the “ioi.gpt2.x” circuit of 1.")


def test_the_stored_demo_is_introduced_by_its_first_pair(view: View) -> None:
    pairs = PromptPairs(("John gave to",), ("Anna gave to",), ((" Mary", " Mar"),), ((" John",),))
    told = introduction(View(dataclasses.replace(view.discovery, prompts=pairs, n_positive=1), None))
    assert "make the model complete “John gave to” with “Mary”?" in told
    assert "its negative (here with “Anna” for “John”), and" in told
    assert introduction(view) == "", "nothing is known of what its prompts are completed with"


def test_a_threshold_of_a_link_is_put_on_the_slider_s_steps(view: View) -> None:
    assert view.on_grid(1.013) == pytest.approx(1.0)
    assert view.on_grid(1e9) == view.top_score
    assert view.on_grid(0.0) == 0.0


def test_the_heatmap_tells_statuses_by_shape_and_dash(view: View) -> None:
    drawing = heatmap(Grid.of(view.heads, has_truth=True), view.at(1.0), (1, 0))
    assert {name: data["name"].tolist() for name, data in drawing.data.items()} == {
        "heads": ["0.0", "0.1", "1.0", "1.1"],
        "marked": ["0.1", "1.0", "1.1"],
        "selected": ["1.0"],
    }
    cells, held, missed, marks, _ = drawing.spec["layer"]
    assert cells["encoding"]["x"]["scale"]["domain"] == [0, 1]
    assert cells["encoding"]["color"]["scale"]["domainMin"] == 0
    assert drawing.spec["params"][0]["name"] == "head"
    assert held["mark"]["strokeDash"] != missed["mark"]["strokeDash"]
    assert len(set(marks["encoding"]["shape"]["scale"]["range"][:3])) == 3
    assert [axis["title"] for axis in (cells["encoding"]["x"], cells["encoding"]["y"])] == ["Layer", "Head"]


def test_without_a_circuit_nothing_is_outlined(blind: View) -> None:
    spec = heatmap(Grid.of(blind.heads, has_truth=False), blind.at(1.0), (1, 0)).spec
    assert len(spec["layer"]) == 3
    titles = [field["title"] for field in spec["layer"][0]["encoding"]["tooltip"]]
    assert "In the circuit" not in titles
    assert "Patching effect" not in titles


def test_moving_the_threshold_leaves_the_specification_alone(view: View) -> None:
    grid = Grid.of(view.heads, has_truth=True)
    for draw in (
        lambda t: heatmap(grid, view.at(t), (1, 0)),
        lambda t: circuit_graph(grid, view.at(t), view.edges(t, 9), (1, 0)),
        lambda t: ranked_scores(grid, view.at(t), t, (1, 0)),
    ):
        assert draw(0.5).spec == draw(2.0).spec
        assert any(not draw(0.5).data[name].equals(frame) for name, frame in draw(2.0).data.items())


def test_a_ranked_score_is_selected_by_a_click_near_it_and_ringed(view: View) -> None:
    drawn = ranked_scores(Grid.of(view.heads, has_truth=True), view.at(1.0), 1.0, (1, 0))
    assert drawn.data["selected"]["name"].tolist() == ["1.0"]
    (selection,) = drawn.spec["params"]
    assert selection["select"]["fields"] == ["layer", "head"]
    assert selection["select"]["nearest"]


def test_moving_the_threshold_leaves_most_of_the_data_alone(view: View) -> None:
    grid = Grid.of(view.heads, has_truth=True)
    for draw in (lambda h: heatmap(grid, h, (1, 0)), lambda h: ranked_scores(grid, h, 1.0, (1, 0))):
        before, after = draw(view.at(0.5)).data, draw(view.at(2.0)).data
        assert before["heads"]["name"].tolist() == ["0.0", "0.1", "1.0", "1.1"]
        assert before["heads"].equals(after["heads"]), "all heads are drawn anew"
        assert before["marked"]["status"].tolist() == [FALSE_POSITIVE, TRUE_POSITIVE, TRUE_POSITIVE]
        assert after["marked"]["status"].tolist() == [TRUE_POSITIVE, MISSED]


def test_results_of_one_shape_share_a_specification_but_not_their_scale(view: View) -> None:
    grid, low = Grid.of(view.heads, has_truth=True), view.at(1.0)
    high = low.assign(score=2 * low["score"])
    for draw in (
        lambda heads: heatmap(grid, heads, (1, 0)),
        lambda heads: circuit_graph(grid, heads, view.edges(1.0, 9), (1, 0)),
        lambda heads: ranked_scores(grid, heads, 1.0, (1, 0)),
    ):
        assert draw(low).spec is draw(high).spec, "made twice"
    drawn = [_picture(heatmap(grid, heads, (1, 0))) for heads in (low, high)]
    colours = [re.findall(r'roledescription="rect mark"[^>]* fill="(rgb[^"]*)"', svg) for svg in drawn]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 4, "the four scores differ"
    legends = [re.findall(r"<text[^>]*>([^<]*)</text>", svg)[:5] for svg in drawn]
    assert legends == [["0", "0.25", "1", "2.3", "4"], ["0", "0.5", "2", "4.5", "8"]]


def test_scores_that_are_all_zero_are_drawn(view: View) -> None:
    svg = _picture(heatmap(Grid.of(view.heads, has_truth=True), view.at(1.0).assign(score=0.0), (1, 0)))
    assert len(set(re.findall(r'roledescription="rect mark"[^>]* fill="(rgb[^"]*)"', svg))) == 1
    assert "NaN" not in svg


def _picture(drawing: Drawing) -> str:
    return sharing.picture(lambda: drawing, "Title", "", kind="svg", mode="light").decode()


def test_the_graph_shows_found_and_missed_heads(view: View) -> None:
    nodes = circuit_graph(Grid.of(view.heads, has_truth=True), view.at(1.0), view.edges(1.0, 9), (1, 0)).data["nodes"]
    assert nodes["name"].tolist() == ["0.1", "1.0", "1.1"]
    assert nodes["label"].tolist() == ["0.1", "1.0", "1.1"]
    assert nodes["selected"].tolist() == [False, True, False]


def view_of(n_layers: int, n_heads: int, truth: Circuit | None = None) -> View:
    """Scores and pair scores of so many heads, without a code."""
    generator, n = torch.Generator().manual_seed(0), n_layers * n_heads
    scores, pairs = (torch.rand(shape, generator=generator) for shape in ((n_layers, n_heads), (n, n)))
    codes = torch.full((2, 1, n), -1, dtype=torch.int32)
    return View(Discovery(scores, (pairs + pairs.T) / 2, codes, torch.zeros(2, 1, n), 1), truth)


def graph_of(view: View, n_found: int) -> Drawing:
    """The circuit of so many heads with forty edges, the best head selected."""
    threshold = float(view.heads["score"].nlargest(n_found).min())
    grid = Grid.of(view.heads, has_truth=view.truth is not None)
    return circuit_graph(grid, view.at(threshold), view.edges(threshold, 40), view.best)


def texts_at(svg: str) -> list[tuple[float, float, str]]:
    """Where the names of heads stand in a picture."""
    found = re.findall(r"<text[^>]*translate\(([\d.]+),([\d.-]+)\)[^>]*>(\d+\.\d+)</text>", svg)
    return [(float(x), float(y), name) for x, y, name in found]


@pytest.mark.parametrize("shape", [(12, 12), (30, 9), (32, 32)])
@pytest.mark.parametrize("n_found", [5, 60])
def test_names_in_the_graph_can_be_read(shape: tuple[int, int], n_found: int) -> None:
    drawing = graph_of(view_of(*shape), n_found)
    nodes = drawing.data["nodes"]
    assert len(nodes) == n_found
    assert not nodes.duplicated(["layer", "head"]).any()
    assert nodes.loc[nodes["selected"], "label"].item() == nodes.loc[nodes["score"].idxmax(), "name"]
    unnamed = nodes[nodes["label"] == ""]
    assert len(unnamed) <= (0 if n_found == 5 or shape[1] <= 12 else n_found // 3)
    assert "name" in [field["field"] for field in drawing.spec["layer"][2]["encoding"]["tooltip"]]
    names = texts_at(_picture(drawing))
    assert len(names) == n_found - len(unnamed)
    for i, (x, y, name) in enumerate(names):
        for x2, y2, other in names[:i]:
            assert abs(x - x2) >= 24 or abs(y - y2) >= 10, f"{name} lies on {other}"


def test_heads_that_touch_are_smaller() -> None:
    for n_heads, diameter in ((9, 18.2), (32, 14.4)):
        area = graph_of(view_of(32, n_heads), 60).data["nodes"]["area"].max()
        assert 0.7 * diameter < 2 * math.sqrt(area / math.pi) <= diameter


def test_a_name_that_would_lie_on_another_is_left_out() -> None:
    column = [(3, 5), (3, 6), (3, 7), (3, 9)]
    assert labelled(column, 80, 36) == set(column)
    assert labelled(column, 80, 14) == {(3, 5), (3, 9)}
    assert labelled([(4, 2), (5, 2)], 20, 36) == {(4, 2)}


def test_an_edge_stays_in_the_plot() -> None:
    ends = {"layer_a": [11, 0], "head_a": [2, 2], "layer_b": [11, 0], "head_b": [10, 10], "score": [1.0, 1.0]}
    paths = edge_paths(pd.DataFrame(ends), (0, 0), 12, 12)
    assert paths.loc[paths["edge"] == 0, "layer"].between(10, 11).all()
    assert paths.loc[paths["edge"] == 1, "layer"].between(0, 1).all()


def test_heads_are_coloured_by_role_where_roles_are_known() -> None:
    truth = stored_circuit("gpt2", "ioi", "wang2022")
    assert truth is not None
    view = view_of(12, 12, truth)
    assert view.has_roles
    drawing = graph_of(view, 60)
    nodes = drawing.data["nodes"].set_index("name")
    for role, heads in truth.roles.items():
        assert {nodes["kind"][f"{layer}.{head}"] for layer, head in heads} == {role}
    assert set(nodes.loc[nodes["status"] == FALSE_POSITIVE, "kind"]) == {NO_ROLE}
    found = drawing.spec["layer"][2]["encoding"]
    assert found["shape"]["field"] == "status"
    assert found["color"]["scale"]["domain"] == [*STATUSES, NO_ROLE, *found["color"]["legend"]["values"][:-1]]
    assert nodes["in_words"][["9.9", "0.1"]].tolist() == ["yes, name mover", "yes, duplicate token"]
    assert drawing.spec is graph_of(view, 5).spec
    for mode in sharing.MODES:
        svg = sharing.picture(lambda: drawing, "Title", "", kind="svg", mode=mode).decode()
        legend = re.findall(r">([^<]+)</text>", svg)
        assert {*truth.roles, NO_ROLE} <= set(legend)
        assert all(colour in svg for colour in sharing.theme_colours(mode)["chartCategoricalColors"][4:])


def test_without_roles_heads_are_coloured_by_status(view: View) -> None:
    drawing = circuit_graph(Grid.of(view.heads, has_truth=True), view.at(1.0), view.edges(1.0, 9), (1, 0))
    assert not view.has_roles
    assert drawing.data["nodes"]["kind"].equals(drawing.data["nodes"]["status"])
    assert drawing.spec["layer"][2]["encoding"]["color"]["legend"] is None


def test_the_curves_pass_through_the_threshold(view: View) -> None:
    evaluation, confusion = view.evaluation, view.confusion(1.0)
    assert evaluation is not None
    assert confusion is not None
    pr = precision_recall_frame(evaluation)
    # From the top: 1.0 (true), 0.1 (false), 1.1 (true), 0.0 (false).
    points = list(zip(pr["recall"], pr["precision"], strict=True))
    assert points == [(0.0, 1.0), (0.5, 1.0), (0.5, 0.5), (1.0, pytest.approx(2 / 3)), (1.0, 0.5)]
    assert math.isnan(pr["threshold"][0])
    point = precision_recall(evaluation, confusion).data["point"]
    assert (point["recall"][0], point["precision"][0]) in points
    frame = roc_frame(evaluation)
    points = list(zip(frame["false_positive_rate"], frame["true_positive_rate"], strict=True))
    assert points == [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
    point = roc(evaluation, confusion).data["point"]
    assert (point["false_positive_rate"][0], point["true_positive_rate"][0]) == (0.5, 0.5)


def test_every_chart_colours_statuses_in_the_theme_s_order(view: View) -> None:
    assert STATUSES == [TRUE_POSITIVE, FALSE_POSITIVE, MISSED, FOUND]


def test_scales_read_well() -> None:
    assert ticks(30, 36) == list(range(30))
    assert ticks(48, 36) == list(range(0, 48, 2))
    assert ticks(5000, 16)[:2] == [0, 5000] or len(ticks(5000, 16)) <= 50
