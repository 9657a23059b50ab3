r"""The JAX primitives of attention: one call that every transformation passes through, fused.

| primitive | computes | jvp | transpose |
| --- | --- | --- | --- |
| `forward` | $o$, lse | `dual` | |
| `dual` | $o$, lse, $\dot o$ in one pass | `dual`, `tangent`, `derivative` | |
| `tangent` | $\dot o$, linear in the tangents | `tangent` or `derivative` | `backward` |
| `backward` | cotangents of the operands | `backward`, `derivative` | |
| `derivative` | a derivative of one of these, by autodiff of `dense` | `derivative` | autodiff |

`dual` splits: where only its tangents are unknown, into `forward` now and `tangent` later (reverse
mode, linearization, checkpointing); where its tangent is unused, it is `forward`. So a consistency
training step, the gradient of a `jvp` whose tangent is held fixed, runs one `dual` and one `backward`:
the primal is computed once and the tangent is never differentiated. Second and higher derivatives go
through `derivative`, which keeps no residuals and costs nothing unless it is asked for.

The log-sum-exp is a residual: the rules differentiate in q, k, v (and the bias) in total, and nobody
reads its tangent, so it has none.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, Var
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from scmkit.types import sum_dtype
from scmkit_attention.backends import (
    Backend,
    cuda_kernel,
    deprecation_ignored,
    xla_backend,
)
from scmkit_attention.call import Arrays, Call
from scmkit_attention.derivatives import Backward, Derivative, Function, tangent_of
from scmkit_attention.partitioning import lowers_for_devices, partitioned
from scmkit_attention.problem import (
    Differentials,
)

forward_p = Primitive("attention_forward")
dual_p = Primitive("attention_dual")
tangent_p = Primitive("attention_tangent")
backward_p = Primitive("attention_backward")
derivative_p = Primitive("attention_derivative")


def _forward(backend: Backend, args: Arrays, call: Call) -> tuple[Any, ...]:
    return backend.forward(call.pack(args), call.spec)


def _dual(backend: Backend, args: Arrays, call: Call) -> tuple[Any, ...]:
    x, t = args[: call.operands], args[call.operands :]
    return backend.dual(call.pack(x), Differentials(*t), call.spec)


def _tangent(backend: Backend, args: Arrays, call: Call) -> tuple[Any, ...]:
    # o and lse are there for the transpose. Computing them again costs one product in six and
    # keeps the tangent free of the rounding of o.
    n = call.operands
    return (_dual(backend, (*args[:n], *args[n + 2 :]), call)[2],)


def _backward(backend: Backend, args: Arrays, call: Call) -> tuple[Any, ...]:
    x, (o, lse, do) = args[: call.operands], args[call.operands :]
    out = backend.backward(call.pack(x), o, lse, do, call.spec)
    return tuple(a for a in out if a is not None)


# --- shapes ---------------------------------------------------------------------------------------


def _row_sums(q: Any) -> Any:
    """The type of the log-sum-exp, with the sharding of q."""
    b, n, h, _ = q.shape
    spec = q.sharding.spec
    sharding = q.sharding.update(spec=type(spec)(spec[0], spec[2], spec[1]))
    return q.update(shape=(b, h, n), dtype=sum_dtype(q.dtype), weak_type=False, sharding=sharding)


def _strong(a: Any) -> Any:
    return a.update(weak_type=False)


def _forward_types(*args: Any, call: Call) -> list[Any]:
    return [_strong(args[0]), _row_sums(args[0])]


def _dual_types(*args: Any, call: Call) -> list[Any]:
    return [_strong(args[0]), _row_sums(args[0]), _strong(args[0])]


def _tangent_types(*args: Any, call: Call) -> list[Any]:
    return [_strong(args[0])]


def _backward_types(*args: Any, call: Call) -> list[Any]:
    return [_strong(a) for a in call.select(args)]


# --- forward mode ---------------------------------------------------------------------------------


def _has_tangent(tangents: Arrays) -> bool:
    return any(type(t) is not ad.Zero for t in tangents)


def _instantiated(tangents: Arrays) -> list[Any]:
    return [ad.instantiate_zeros(t) for t in tangents]


def _no_tangent(primal: Any) -> ad.Zero:
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


def _forward_jvp(primals: Arrays, tangents: Arrays, *, call: Call) -> tuple[Any, Any]:
    o, lse, to = dual_p.bind(*primals, *_instantiated(call.select(tangents)), call=call)
    return (o, lse), (to, _no_tangent(lse))


def _dual_jvp(primals: Arrays, tangents: Arrays, *, call: Call) -> tuple[Any, Any]:
    n = call.operands
    o, lse, to = dual_p.bind(*primals, call=call)
    dx, dt = call.select(tangents[:n]), tangents[n:]
    if _has_tangent(dx):
        (do,) = tangent_p.bind(*primals[:n], o, lse, *_instantiated(dx), call=call)
    else:
        do = _no_tangent(o)
    dto = _tangent_derivative(primals[:n], o, lse, primals[n:], dx, dt, call)
    return (o, lse, to), (do, _no_tangent(lse), dto)


def _tangent_jvp(primals: Arrays, tangents: Arrays, *, call: Call) -> tuple[Any, Any]:
    n = call.operands
    x, (o, lse), t = primals[:n], primals[n : n + 2], primals[n + 2 :]
    dx, dt = call.select(tangents[:n]), tangents[n + 2 :]
    return tangent_p.bind(*primals, call=call), [_tangent_derivative(x, o, lse, t, dx, dt, call)]


def _tangent_derivative(
    x: Arrays, o: Any, lse: Any, t: Arrays, dx: Arrays, dt: Arrays, call: Call
) -> Any:
    """The tangent of `tangent(x, t)`; without that of `x` it is `tangent` again, being linear."""
    if not _has_tangent(dx):
        return tangent_p.bind(*x, o, lse, *_instantiated(dt), call=call)[0]
    mask = x[3 : 3 + call.masked]
    return derivative_p.bind(
        *mask,
        *call.select(x),
        *t,
        *_instantiated(dx),
        *_instantiated(dt),
        function=tangent_of(call),
    )[0]


def _backward_jvp(primals: Arrays, tangents: Arrays, *, call: Call) -> tuple[Any, Any]:
    n = call.operands
    x, (o, lse, do) = primals[:n], primals[n:]
    dx, ddo = call.select(tangents[:n]), tangents[-1]
    out = backward_p.bind(*primals, call=call)
    if not _has_tangent(dx):
        return out, backward_p.bind(*x, o, lse, ad.instantiate_zeros(ddo), call=call)
    return out, derivative_p.bind(
        *x[3 : 3 + call.masked],
        *call.select(x),
        do,
        *_instantiated([*dx, ddo]),
        function=Backward(call),
    )


# --- higher derivatives ---------------------------------------------------------------------------


def _derivative(args: Arrays, function: Function) -> tuple[Any, ...]:
    masked = int(function.call.masked)
    return Derivative(function)(args[:masked], args[masked:])


def _derivative_types(*args: Any, function: Function) -> list[Any]:
    return [_strong(a) for a in function.types(args[int(function.call.masked) :])]


def _derivative_jvp(primals: Arrays, tangents: Arrays, *, function: Function) -> tuple[Any, Any]:
    masked = int(function.call.masked)
    n = masked + function.inputs
    out = derivative_p.bind(*primals, function=function)
    if _has_tangent(tangents[masked:n]):
        dx = _instantiated(tangents[masked:])
        return out, derivative_p.bind(*primals, *dx, function=Derivative(function))
    return out, derivative_p.bind(*primals[:n], *_instantiated(tangents[n:]), function=function)


def _derivative_transpose(cotangents: Arrays, *args: Any, function: Function) -> list[Any]:
    masked = int(function.call.masked)
    n = masked + function.inputs
    mask, x, t = args[:masked], args[masked:n], args[n:]
    out, pull = jax.vjp(lambda *p: function(mask, p), *x)
    del out
    found = pull(tuple(_instantiated(cotangents)))
    return [None] * n + [
        g if ad.is_undefined_primal(a) else None for g, a in zip(found, t, strict=True)
    ]


# --- reverse mode ---------------------------------------------------------------------------------


def _tangent_transpose(cotangents: Arrays, *args: Any, call: Call) -> list[Any]:
    known, t = args[: call.operands + 2], args[call.operands + 2 :]
    found = backward_p.bind(*known, ad.instantiate_zeros(cotangents[0]), call=call)
    return [None] * len(known) + [
        g if ad.is_undefined_primal(a) else None for g, a in zip(found, t, strict=True)
    ]


def _dual_partial_eval(trace: Any, *tracers: Any, call: Call) -> Any:
    """Linearization and scan: known operands with unknown tangents are `forward` and `tangent`."""
    n = call.operands
    tracers = tuple(trace.to_jaxpr_tracer(t) for t in tracers)
    known = [t.is_known() for t in tracers]
    if all(known) or not all(known[:n]):
        return trace.default_process_primitive(dual_p, tracers, {"call": call})
    x, t = tracers[:n], tracers[n:]
    o, lse = trace.process_primitive(forward_p, x, {"call": call})
    (to,) = trace.process_primitive(tangent_p, [*x, o, lse, *t], {"call": call})
    return [o, lse, to]


def _dual_partial_eval_jaxpr(
    saveable: Callable[..., Any], unknown: Sequence[bool], available: Sequence[bool], eqn: Any
) -> tuple[Any, Any, list[bool], list[bool], list[Any]]:
    """`jax.checkpoint`: which part runs in the forward pass, which in the backward pass.

    Returns the two equations, which outputs are unknown in the first and available in the second,
    and the residuals (see `PartialEvalCustomRule` in JAX's sources).
    """
    call = eqn.params["call"]
    n = call.operands
    residuals = [
        v for v, a in zip(eqn.invars, available, strict=True) if not a and isinstance(v, Var)
    ]
    if any(unknown[:n]):
        return None, eqn, [True] * 3, [True] * 3, residuals
    policy = saveable(dual_p, *(v.aval for v in eqn.invars), **eqn.params)
    # A policy may also answer with its own Saveable, Recompute or Offloadable; JAX keeps no public
    # name for the first. Offloading is done to named values, so here it means to compute again.
    save = policy is True or type(policy).__name__ == "SaveableType"
    if not any(unknown):
        if save:
            return eqn, None, [False] * 3, [False] * 3, []
        return eqn, eqn, [False] * 3, [True] * 3, residuals
    x, outs = eqn.invars[:n], eqn.outvars[:2]
    forward = eqn.replace(primitive=forward_p, invars=x, outvars=outs)
    if not save:
        return forward, eqn, [False, False, True], [True] * 3, residuals
    tangent = eqn.replace(
        primitive=tangent_p, invars=[*x, *outs, *eqn.invars[n:]], outvars=eqn.outvars[2:]
    )
    return forward, tangent, [False, False, True], [False, False, True], [*residuals, *outs]


def _dual_dce(used: Sequence[bool], *rest: Any) -> tuple[list[bool], Any]:
    eqn = rest[-1]  # jax >= 0.12 passes which inputs are live before the equation
    n = eqn.params["call"].operands
    if not any(used):
        return [False] * len(eqn.invars), None
    if used[2]:
        return [True] * len(eqn.invars), eqn
    forward = eqn.replace(primitive=forward_p, invars=eqn.invars[:n], outvars=eqn.outvars[:2])
    return [True] * n + [False] * (len(eqn.invars) - n), forward


def attention_saveable(primitive: Primitive, *_: Any, **params: Any) -> bool:
    """Policy for `jax.checkpoint`: keep the outputs of attention, and so compute it only once.

    They are as large as the queries, where computing them again costs quadratically more.
    """
    return primitive in (forward_p, dual_p)


# --- vmap -----------------------------------------------------------------------------------------


def _batch(primitive: Primitive, args: Arrays, dims: Sequence[int | None], **params: Any) -> Any:
    """A mapped axis joins the batch; a mask that is one for all stays so."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    call = params["call"] if "call" in params else params["function"].call
    # `derivative` has the mask in front, the others after q, k and v.
    mask, q = (0, int(call.masked)) if primitive is derivative_p else (3, 0)
    batch = args[q].shape[1 if dims[q] == 0 else 0]

    def fold(i: int) -> Any:
        a, d = args[i], dims[i]
        a = a[None] if d is None else jnp.moveaxis(a, d, 0)
        if call.masked and i == mask and d is None and a.shape[1] == 1:
            return a[0]
        return jnp.broadcast_to(a, (size, batch, *a.shape[2:])).reshape(size * batch, *a.shape[2:])

    outs = primitive.bind(*map(fold, range(len(args))), **params)
    return [a.reshape(size, batch, *a.shape[1:]) for a in outs], [0] * len(outs)


def _dual_batch(args: Arrays, dims: Sequence[int | None], *, call: Call) -> Any:
    """Many tangents at one point, as in `jax.jacfwd`: the output is not mapped."""
    n = call.operands
    if any(d is not None for d in dims[:n]):
        return _batch(dual_p, args, dims, call=call)
    o, lse = forward_p.bind(*args[:n], call=call)
    outs, mapped = _batch(
        tangent_p, (*args[:n], o, lse, *args[n:]), (*dims[:n], None, None, *dims[n:]), call=call
    )
    return [o, lse, *outs], [None, None, *mapped]


# --- registration ---------------------------------------------------------------------------------


def _register(
    primitive: Primitive,
    types: Callable[..., list[Any]],
    jvp: Callable[..., tuple[Any, Any]],
    lowering: Callable[..., tuple[Any, ...]],
    on_cuda: Callable[..., tuple[Any, ...]] | None = None,
) -> None:
    @functools.cache
    def compiled(**params: Any) -> Callable[..., Any]:
        return jax.jit(lambda *args: primitive.bind(*args, **params))

    primitive.multiple_results = True
    primitive.def_abstract_eval(types)
    primitive.def_impl(lambda *args, **params: compiled(**params)(*args))
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(lowering, multiple_results=True))
    if on_cuda is not None:
        lower = mlir.lower_fun(on_cuda, multiple_results=True)

        def rule(*args: Any, **params: Any) -> Any:
            with deprecation_ignored():
                return lower(*args, **params)

        mlir.register_lowering(primitive, rule, platform="cuda")


OUTPUT, ROWS, DIFFERENTIALS = "bnhd", "bhn", ("bnhd", "bmgd", "bmgd")
"""The dimensions of a kernel's arrays: samples, query and key heads, queries, keys, features."""


def _kernel(
    primitive: Primitive,
    types: Callable[..., list[Any]],
    jvp: Callable[..., tuple[Any, Any]],
    run: Callable[..., tuple[Any, ...]],
    ins: Sequence[str],
    outs: Sequence[str],
) -> None:
    """Register a primitive that has kernels; `ins` are the arguments after the operands."""

    def lowering(*args: Any, call: Call) -> tuple[Any, ...]:
        return run(xla_backend(call.pack(args[: call.operands]), call.spec), args, call)

    def on_cuda(*args: Any, call: Call) -> tuple[Any, ...]:
        kernel = cuda_kernel(call.pack(args[: call.operands]), call.spec)
        if kernel is None:
            return lowering(*args, call=call)
        names = [*DIFFERENTIALS]
        if call.masked:
            names += [
                "".join(d if n > 1 else "1" for d, n in zip("bhnm", args[3].shape, strict=True))
            ]
        return partitioned(lambda *args: run(kernel, args, call), args, [*names, *ins], outs)

    _register(primitive, types, jvp, lowering, on_cuda)
    lowers_for_devices(primitive)


_kernel(forward_p, _forward_types, _forward_jvp, _forward, (), (OUTPUT, ROWS))
_kernel(dual_p, _dual_types, _dual_jvp, _dual, DIFFERENTIALS, (OUTPUT, ROWS, OUTPUT))
_kernel(
    tangent_p, _tangent_types, _tangent_jvp, _tangent, (OUTPUT, ROWS, *DIFFERENTIALS), (OUTPUT,)
)
_kernel(
    backward_p, _backward_types, _backward_jvp, _backward, (OUTPUT, ROWS, OUTPUT), DIFFERENTIALS
)
_register(
    derivative_p,
    _derivative_types,
    _derivative_jvp,
    lambda *args, function: _derivative(args, function),
)
batching.primitive_batchers[dual_p] = _dual_batch
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[derivative_p] = _derivative_transpose
pe.custom_partial_eval_rules[dual_p] = _dual_partial_eval
pe.partial_eval_jaxpr_custom_rules[dual_p] = _dual_partial_eval_jaxpr
pe.dce_rules[dual_p] = _dual_dce
