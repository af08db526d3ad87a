"""A program as units, for `second_order`: equations, and loops over programs of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sharpjax import _programs as programs

_PRODUCTS = ("dot_general", "conv_general_dilated")
_MISSING = "custom_lin"  # What `jvp` makes of a custom_vjp function.


class ForwardModeError(TypeError):
    """The loss has a `custom_vjp` function, which has no forward-mode derivative."""

    def __init__(self):
        super().__init__(
            "a custom_vjp function in the loss has no forward-mode derivative; "
            "reverse mode, twice, needs none"
        )


class Program:
    """A program as units: its values, its adjoints, and what a direction makes of them.

    Inputs, outputs, cotangents and tangents are lists, with None for what there is none of.
    """

    def __init__(
        self, closed, moving: Sequence[bool], heard: Sequence[bool], at_hand: Sequence[bool]
    ):
        """`moving` inputs have a tangent, `heard` ones are asked for their adjoint.

        What is `at_hand` need not be kept between the passes.
        """
        closed = programs.open_calls(closed)
        self.jaxpr, self.consts = closed.jaxpr, closed.consts
        inputs = self.jaxpr.invars
        self.moving = {x for x, flag in zip(inputs, moving, strict=True) if flag}
        self.heard = {x for x, flag in zip(inputs, heard, strict=True) if flag}
        self.units = []
        for group, reads, outputs in _groups(self.jaxpr, self.moving):
            own = [x for x in reads if x in self.moving]
            if not own:
                continue
            make = _Loop if group[0].primitive.name == "scan" else _Unit
            unit = make(group, reads, own, outputs, self.heard)
            self.units.append(unit)
            self.moving.update(unit.outputs)
            loop = isinstance(unit, _Loop)
            self.heard.update(unit.outputs if unit.heard or loop else unit.curved)
        given = {
            *self.jaxpr.constvars,
            *(x for x, flag in zip(inputs, at_hand, strict=True) if flag),
        }
        reads = dict.fromkeys(x for unit in self.units for x in unit.reads)
        self.kept = [x for x in reads if x not in given]
        self.loops = {id(u.eqn): u for u in self.units if isinstance(u, _Loop)}

    def forward(self, inputs) -> tuple[list, Any]:
        """The outputs, and what is kept for the passes below."""
        values, inside = self.values(inputs), {}
        for eqn in self.jaxpr.eqns:
            if id(eqn) in self.loops:
                inside[id(eqn)] = self.loops[id(eqn)].forward(values)
            else:
                programs.run([eqn], values)
        outputs = [programs.read(values, y) for y in self.jaxpr.outvars]
        return outputs, ([values[x] for x in self.kept], [inside[name] for name in self.loops])

    def values(self, inputs, kept=((), ())) -> dict:
        """The values of inputs and constants, and of what was kept; a loop's, under its name."""
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values.update(zip(self.jaxpr.invars, inputs, strict=True))
        values.update(zip(self.kept, kept[0], strict=False))
        values.update(zip(self.loops, kept[1], strict=False))
        return values

    def backward(self, values, cotangents) -> tuple[list, list]:
        """The adjoints of the inputs that are heard, and those that the units need."""
        adjoints, inside = {}, []
        _add(adjoints, self.jaxpr.outvars, cotangents, self.heard)
        for unit in reversed(self.units):
            found, needed = unit.backward(values, [adjoints.get(y) for y in unit.outputs])
            _add(adjoints, unit.heard, found, self.heard)
            inside.append(needed)
        return [adjoints.get(x) for x in self.jaxpr.invars], inside[::-1]

    def along(self, values, adjoints, tangents) -> tuple[list, Any]:
        """The outputs' tangents, and Σₑ⟨ȳₑ, D²φₑ[ẋₑ, ẋₑ]⟩, for tangents of the inputs."""
        known = dict(zip(self.jaxpr.invars, tangents, strict=True))
        total = jnp.zeros((), jnp.float32)
        for unit, needed in zip(self.units, adjoints, strict=True):
            found, terms = unit.along(values, needed, [known[x] for x in unit.inputs])
            known.update(zip(unit.outputs, found, strict=True))
            total = sum(terms, start=total)
        outputs = self.jaxpr.outvars
        return [known[y] if programs.is_in(self.moving, y) else None for y in outputs], total


def _groups(jaxpr, moving) -> list[tuple]:
    """(equations, what they read, what others use of them) of units, in an order of evaluation.

    A matrix product, or an equation with one inside, is a unit of its own, and so is a loop. What
    depends on the same number of them in a row is one unit: it costs little, and only its ends are
    kept.
    """
    depth, groups = dict.fromkeys(moving, 0), {}
    for i, eqn in enumerate(jaxpr.eqns):
        above = [depth[x] for x in programs.variables(eqn.invars) if x in depth]
        outputs = [y for y in eqn.outvars if programs.is_float(y.aval)]
        if above and outputs:
            alone = programs.contains(eqn, (*_PRODUCTS, "scan"))
            place = (max(above) + 1, 0, i) if alone else (max(above), 1, 0)
            groups.setdefault(place, []).append(eqn)
            depth.update(dict.fromkeys(outputs, place[0]))

    ordered = [group for _, group in sorted(groups.items(), key=lambda item: item[0])]
    made = [{y for eqn in group for y in eqn.outvars if y in depth} for group in ordered]
    reads = [
        list(dict.fromkeys(x for e in group for x in programs.variables(e.invars) if x not in own))
        for group, own in zip(ordered, made, strict=True)
    ]
    used = {*programs.variables(jaxpr.outvars), *(x for names in reads for x in names)}
    uses = [[y for e in group for y in e.outvars if y in used and y in depth] for group in ordered]
    return list(zip(ordered, reads, uses, strict=True))


class _Unit:
    """Equations that are differentiated together."""

    def __init__(self, equations, reads, inputs, outputs, heard):
        self.equations, self.reads, self.inputs = equations, reads, inputs
        self.outputs = outputs
        self.heard = [x for x in inputs if x in heard]
        self._expand()

    def _expand(self):
        """Makes the program of Dφ[ẋ] and D²φ[ẋ, ẋ]; outputs without either are left out.

        JAX carries zeros symbolically: a derivative that is zero does not refer to a tangent.
        """

        def expand(reads, tangents):
            values = dict(zip(self.reads, reads, strict=True))
            xs = [values[x] for x in self.inputs]
            function = self._function(values, self.inputs, self.outputs)
            first = lambda xs: jax.jvp(function, (xs,), (tangents,))[1]  # noqa: E731
            return jax.jvp(first, (xs,), (tangents,))

        avals = [x.aval for x in self.reads], [x.aval for x in self.inputs]
        closed = _forward_mode(expand, *avals)
        jaxpr = closed.jaxpr
        count = len(self.reads)
        reached = programs.depends(jaxpr, jaxpr.invars[count:])
        firsts = dict(zip(self.outputs, jaxpr.outvars[: len(self.outputs)], strict=True))
        seconds = dict(zip(self.outputs, jaxpr.outvars[len(self.outputs) :], strict=True))
        self.outputs = [y for y, atom in firsts.items() if programs.is_in(reached, atom)]
        self.curved = [y for y, atom in seconds.items() if programs.is_in(reached, atom)]
        wanted = [*(firsts[y] for y in self.outputs), *(seconds[y] for y in self.curved)]
        self.expansion, self.wanted = programs.trimmed(jaxpr, wanted)
        self.names = jaxpr.invars
        self.constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))

    def _function(self, values, inputs, outputs) -> Callable:
        def function(xs):
            inner = {x: values[x] for x in self.reads} | dict(zip(inputs, xs, strict=True))
            programs.run(self.equations, inner)
            return [inner[y] for y in outputs]

        return function

    def backward(self, values, cotangents) -> tuple[list, list]:
        known = {y: c for y, c in zip(self.outputs, cotangents, strict=True) if c is not None}
        found = [None] * len(self.heard)
        if self.heard and known:
            function = self._function(values, self.heard, list(known))
            pull_back = jax.vjp(function, [values[x] for x in self.heard])[1]
            (found,) = pull_back(list(known.values()))
        return found, [known.get(y) for y in self.curved]

    def along(self, values, adjoints, tangents) -> tuple[list, list]:
        inner = dict(zip(self.names, [*(values[x] for x in self.reads), *tangents], strict=True))
        inner.update(self.constants)
        programs.run(self.expansion, inner)
        found = [programs.read(inner, atom) for atom in self.wanted]
        seconds = found[len(self.outputs) :]
        pairs = [(a, s) for a, s in zip(adjoints, seconds, strict=True) if a is not None]
        return found[: len(self.outputs)], [jnp.sum(widen(a) * widen(s)).real for a, s in pairs]


def _forward_mode(expand, *avals):
    """The program of a twofold `jvp`; JAX leaves a `custom_lin` for what has none."""
    try:
        closed = jax.make_jaxpr(expand)(*avals)
    except NotImplementedError as error:
        if _MISSING in str(error):
            raise ForwardModeError from error
        raise
    if any(programs.contains(eqn, (_MISSING,)) for eqn in closed.jaxpr.eqns):
        raise ForwardModeError
    return closed


class _Loop:
    """A scan, whose steps are a program of units."""

    def __init__(self, equations, reads, inputs, outputs, heard):
        (self.eqn,) = equations
        self.reads, self.inputs, self.curved = reads, inputs, []
        self.fixed, self.carried = programs.scanned(self.eqn)
        atoms, body = self.eqn.invars, self.eqn.params["jaxpr"]
        self.moving = [programs.is_in(inputs, x) for x in atoms]
        # What is carried moves if it starts from what moves, or if a step makes it move.
        carry, before = self._split(self.moving)[1], None
        while carry != before:
            before = carry
            self.moving[self.fixed : self.fixed + self.carried] = carry
            flagged = zip(body.jaxpr.invars, self.moving, strict=True)
            reached = programs.depends(body.jaxpr, [x for x, flag in flagged if flag])
            after = body.jaxpr.outvars[: self.carried]
            carry = [a or programs.is_in(reached, y) for a, y in zip(carry, after, strict=True)]
        self.asked = [programs.is_in(heard, x) for x in atoms]
        self.heard = [x for x, flag in zip(atoms, self.asked, strict=True) if flag]
        fixed, _, sliced = self._split(self.asked)
        at_hand = [True] * self.fixed + [False] * self.carried + [True] * len(sliced)
        self.body = Program(body, self.moving, [*fixed, *carry, *sliced], at_hand)
        moved = [programs.is_in(self.body.moving, y) for y in self.body.jaxpr.outvars]
        flags = zip(self.eqn.outvars, [*carry, *moved[self.carried :]], strict=True)
        self.outputs = [y for y, flag in flags if flag and y in outputs]

    def _split(self, items) -> tuple[list, list, list]:
        """What belongs to all steps, to what is carried, and to one step each."""
        start = self.fixed + self.carried
        return items[: self.fixed], items[self.fixed : start], items[start:]

    def _scan(self, step, start, steps, *, backward=False):
        p = self.eqn.params
        options = {"length": p["length"], "unroll": p["unroll"]}
        return jax.lax.scan(step, start, steps, reverse=p["reverse"] != backward, **options)

    def forward(self, values) -> Any:
        """Adds the scan's outputs to the values; what is kept of its steps."""
        fixed, start, sliced = self._split([programs.read(values, x) for x in self.eqn.invars])

        def step(carry, own):
            outputs, kept = self.body.forward([*fixed, *carry, *own])
            return outputs[: self.carried], (outputs[self.carried :], kept)

        last, (stacked, kept) = self._scan(step, start, sliced)
        values.update(zip(self.eqn.outvars, [*last, *stacked], strict=True))
        return kept

    def _values(self, fixed, own, kept) -> dict:
        return self.body.values([*fixed, *[None] * self.carried, *own], kept)

    def backward(self, values, cotangents) -> tuple[list, list]:
        known = dict(zip(self.outputs, cotangents, strict=True))
        cotangents = [known.get(y) for y in self.eqn.outvars]
        fixed, start, sliced = self._split([programs.read(values, x) for x in self.eqn.invars])
        moving, asked = self._split(self.moving)[1], self._split(self.asked)[0]
        last = [
            jnp.zeros_like(x) if flag and c is None else c
            for x, flag, c in zip(start, moving, cotangents[: self.carried], strict=True)
        ]
        sums = [jnp.zeros_like(x) if flag else None for x, flag in zip(fixed, asked, strict=True)]

        def step(state, steps):
            (carry, sums), (own, kept, outer) = state, steps
            inner = self._values(fixed, own, kept)
            found, needed = self.body.backward(inner, [*carry, *outer])
            of_fixed, of_carry, of_own = self._split(found)
            sums = [a if b is None else a + b for a, b in zip(sums, of_fixed, strict=True)]
            return (_like(of_carry, carry), sums), (of_own, needed)

        steps = (sliced, values[id(self.eqn)], cotangents[self.carried :])
        (first, sums), (stacked, needed) = self._scan(step, (last, sums), steps, backward=True)
        found = zip([*sums, *first, *stacked], self.asked, strict=True)
        return [c for c, flag in found if flag], needed

    def along(self, values, adjoints, tangents) -> tuple[list, list]:
        known = dict(zip(self.inputs, tangents, strict=True))
        atoms = zip(self.eqn.invars, self.moving, strict=True)
        tangents = [
            known[x]
            if programs.is_in(known, x)
            else jnp.zeros_like(programs.read(values, x))
            if flag
            else None
            for x, flag in atoms
        ]
        fixed, _, sliced = self._split([programs.read(values, x) for x in self.eqn.invars])
        of_fixed, of_start, of_sliced = self._split(tangents)

        def step(carry, steps):
            own, kept, needed, of_own = steps
            inner = self._values(fixed, own, kept)
            found, total = self.body.along(inner, needed, [*of_fixed, *carry, *of_own])
            return _like(found[: self.carried], carry), (found[self.carried :], total)

        steps = (sliced, values[id(self.eqn)], adjoints, of_sliced)
        last, (stacked, totals) = self._scan(step, of_start, steps)
        found = dict(zip(self.eqn.outvars, [*last, *stacked], strict=True))
        return [found[y] for y in self.outputs], [jnp.sum(totals)]


def _like(values, examples) -> list:
    """Values where there are examples: zeros for those that are missing."""
    return [
        None if x is None else jnp.zeros_like(x) if value is None else value
        for value, x in zip(values, examples, strict=True)
    ]


def _add(sums, names, values, wanted) -> None:
    """Adds values, where there are any, to the sums of those names that are wanted."""
    for name, value in zip(names, values, strict=True):
        if value is not None and programs.is_in(wanted, name):
            sums[name] = sums[name] + value if name in sums else value


def wide(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def widen(x) -> jax.Array:
    return x.astype(wide(x.dtype))
