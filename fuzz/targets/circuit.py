"""Circuit files: one that is read must be written and read back the same."""

from __future__ import annotations

import json
import math
from itertools import chain

from dsae_core.circuits import Circuit, Edge, read_circuit
from dsae_core.errors import UserError
from fuzz.documents import mutate_json
from fuzz.scratch import scratch_file
from fuzz.target import Target, require

_EXAMPLES = (
    Circuit(
        "measured",
        "toy",
        "ioi",
        ((0, 1), (1, 0)),
        effects=((0.0, 0.5), (-0.1, 0.0)),
        intervals=(((0.0, 0.1), (0.4, 0.6)), ((-0.2, -0.05), (0.0, 0.0))),
        edges=(Edge((0, 1), (1, 0), 0.25, 0.1, 0.4),),
        provenance={"seed": 3, "prompts": {"n": 32}},
    ),
    Circuit("wang2022", "gpt2", "ioi", ((9, 9), (10, 0)), roles={"name mover": ((9, 9), (10, 0))}),
)


def _run(data: bytes) -> None:
    with scratch_file(data) as path:
        try:
            circuit = read_circuit(path)
        except UserError:
            return
    text = json.dumps(circuit.to_dict(), allow_nan=False)
    require(Circuit.from_dict(json.loads(text)) == circuit, "the circuit does not read back")
    json.dumps(circuit.to_dict(), ensure_ascii=False).encode()
    numbers = [*chain(*circuit.effects), *chain(*chain(*circuit.intervals))]
    require(all(map(math.isfinite, numbers)), "an effect that is not finite was taken")
    try:
        members = circuit.membership(2, 2)
    except UserError:
        return
    require(sum(map(sum, members)) == len(circuit), "other heads are members")


TARGETS = {"circuit": Target(_run, tuple(json.dumps(c.to_dict()).encode() for c in _EXAMPLES), mutate_json)}
