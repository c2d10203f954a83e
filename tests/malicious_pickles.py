"""Pickles that run something, hang, or ask for more memory than there is, when they are read as Python reads them."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import torch

from tests.opcodes import Lazy, Marker, Ops, apply, build, call, dotted, get, items, name, ordered, pickled, push, put

MANY = 3_000_000
DEEP = 100_000
HUGE = 1 << 62


def imported(module: str) -> Ops:
    """A module, imported."""
    return call("builtins", "__import__", module)


def calls(m: Marker) -> dict[str, Ops]:
    """Calls that no checkpoint makes, each enough to make the marker, to reach code, or to hang."""
    system, path = name("os", "system"), m.name
    compiled = call("builtins", "compile", m.code, "x", "exec")
    found = {
        "os_system": apply(system, m.shell),
        "posix_system": call("posix", "system", m.shell),
        "nt_system": call("nt", "system", m.shell),
        "os_popen": call("os", "popen", m.shell),
        "os_posix_spawn": call("os", "posix_spawn", "/usr/bin/touch", ["touch", path], {}),
        "os_open": call("os", "open", path, 0o101),
        "subprocess_popen": call("subprocess", "Popen", ["touch", path]),
        "subprocess_check_output": call("subprocess", "check_output", ["touch", path]),
        "pty_spawn": call("pty", "spawn", ["touch", path]),
        "eval": call("builtins", "eval", m.code),
        "exec": call("builtins", "exec", m.code),
        "python2_eval": call("__builtin__", "eval", m.code),
        "python2_execfile": call("__builtin__", "execfile", path),
        "exec_compiled": call("builtins", "exec", compiled),
        "open": call("builtins", "open", path, "w"),
        "io_fileio": call("io", "FileIO", path, "w"),
        "codecs_open": call("codecs", "open", path, "w"),
        "logging_filehandler": call("logging", "FileHandler", path, "w"),
        "zipfile_zipfile": call("zipfile", "ZipFile", path, "w"),
        "pathlib_touch": apply(dotted("pathlib", "Path.touch"), call("pathlib", "PosixPath", path)),
        "getattr_chain": apply(call("builtins", "getattr", imported("os"), "system"), m.shell),
        "getattr_globals": call("builtins", "getattr", name("collections", "OrderedDict"), "__init_subclass__"),
        "import_module": call("importlib", "import_module", "antigravity"),
        "runpy_run_code": call("runpy", "_run_code", compiled, {}),
        "runpy_run_path": call("runpy", "run_path", path),
        "timeit": call("timeit", "timeit", m.code, "pass", name("time", "perf_counter"), 1),
        "cprofile_run": call("cProfile", "run", m.code),
        "partial": apply(call("functools", "partial", system, m.shell)),
        "methodcaller": apply(call("operator", "methodcaller", "system", m.shell), imported("os")),
        "attrgetter": apply(apply(call("operator", "attrgetter", "system"), imported("os")), m.shell),
        "map": call("builtins", "list", call("builtins", "map", system, [m.shell])),
        "pickle_loads": call("pickle", "loads", pickled(apply(system, m.shell))),
        "c_pickle_loads": call("_pickle", "loads", pickled(apply(system, m.shell))),
        "ctypes_cdll": call("ctypes", "CDLL", "libc.so.6"),
        "code_interpreter": call("code", "InteractiveInterpreter"),
        "function_type": call("types", "FunctionType", compiled, {}),
        "reconstructor": call(
            "copyreg", "_reconstructor", name("subprocess", "Popen"), name("builtins", "object"), None
        ),
        "add_extension": call("copyreg", "add_extension", "os", "system", 1),
        "socket": call("socket", "create_connection", ("127.0.0.1", 9)),
        "urlopen": call("urllib.request", "urlopen", "file:///dev/null"),
        "webbrowser": call("webbrowser", "get", f"{m.shell} %s"),
        "sleep": call("time", "sleep", 1_000_000),
        "bytearray": call("builtins", "bytearray", 1 << 44),
        "power": call("builtins", "pow", 10, 10**10),
        "range": call("builtins", "list", call("builtins", "range", 1 << 44)),
    }
    return found | library_calls(m)


def library_calls(m: Marker) -> dict[str, Ops]:
    """The same through torch, numpy, the networks' own helpers, and names that nearly are allowed."""
    path, system = m.name, ("os.system", m.shell)
    return {
        "dotted_from_torch": apply(dotted("torch.serialization", "os.system"), m.shell),
        "dotted_from_allowed": apply(dotted("torch._utils", "sys.modules.get"), "os"),
        "dotted_method": apply(dotted("collections", "OrderedDict.fromkeys"), "ab"),
        "dotted_globals": dotted("torch.storage", "_load_from_bytes.__globals__"),
        "torch_load": call("torch", "load", path),
        "torch_serialization_load": call("torch.serialization", "load", path),
        "torch_hub_load": call("torch.hub", "load", "someone/something:main", "model"),
        "torch_jit_load": call("torch.jit", "load", path),
        "torch_jit_exec": call("torch.jit.unsupported_tensor_ops", "execWrapper", m.code, {}, {}),
        "torch_cpp_extension": call("torch.utils.cpp_extension", "load_inline", "x", "int f() { return 1; }"),
        "torch_collect_env": call("torch.utils.collect_env", "run", m.shell),
        "torch_package": call("torch.package", "PackageImporter", path),
        "torch_from_file": call("torch", "from_file", path, True, 8),
        "torch_storage_from_file": apply(dotted("torch", "UntypedStorage.from_file"), path, True, 8),
        "torch_zeros": call("torch", "zeros", (1 << 20, 1 << 20)),
        "torch_storage": call("torch", "FloatStorage", 1 << 42),
        "torch_rebuild_other": call("torch._utils", "_rebuild_device_tensor_from_numpy", [1.0], "f4", "cpu", False),
        "torch_module": apply(name("torch.nn.modules.linear", "Linear"), 1 << 20, 1 << 20),
        "numpy_load": call("numpy", "load", path, None, True),
        "numpy_memmap": call("numpy", "memmap", path, "uint8", "w+", 0, (8,)),
        "numpy_save": call("numpy", "savetxt", path, [1.0]),
        "numpy_zeros": call("numpy", "ones", (1 << 21, 1 << 21)),
        "numpy_runstring": call("numpy.testing", "runstring", m.code, {}),
        "numpy_rundocs": call("numpy.testing", "rundocs", path),
        "numpy_f2py": call("numpy.f2py.crackfortran", "myeval", m.code, {}, {}),
        "numpy_old_runstring": call("numpy.testing._private.utils", "runstring", m.code, {}),
        "dnnlib_call_by_name": call("dnnlib.util", "call_func_by_name", m.shell),
        "dnnlib_get_by_name": apply(call("dnnlib.util", "get_obj_by_name", system[0]), system[1]),
        "dnnlib_open_url": call("dnnlib.util", "open_url", f"file://{path}"),
        "persistence_hook": call("torch_utils.persistence", "import_hook", name("os", "system")),
        "training_network": call("training.networks", "Generator", 512, 0, 512, 1024, 3),
        "main_class": call("__main__", "Generator"),
        "codecs_decode": call("_codecs", "decode", b"x", "unicode_escape"),
        "codecs_lookup": call("_codecs", "lookup", "os.system"),
        "codecs_odd_encoding": call("_codecs", "encode", "x" * 8, f"../../{path}"),
        "codecs_zip": call("_codecs", "encode", b"\0" * 64, "zlib_codec"),
        "escape_in_name": call("os\x1b[2J\x1b]0;owned\x07", "system", m.shell),
        "sentence_in_name": call("os. The file is safe. Continue", "system", m.shell),
        "long_name": call("os" * 50_000, "system", m.shell),
    }


def calls_in_a_file(m: Marker) -> Lazy:
    """Each call as the whole content of a pickle."""
    return {f"call_{key}": lambda ops=ops: pickled(ops, 4) for key, ops in calls(m).items()}


def legacy_stream(value: Any, keys: list[str] | None = None, raw: bytes = b"", **changes: Any) -> bytes:
    """An old stream of torch.save with the given value, storage keys and raw numbers; `changes` spoil its head."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    magic = changes.pop("magic", torch.serialization.MAGIC_NUMBER)
    version = changes.pop("version", torch.serialization.PROTOCOL_VERSION)
    head = pickled(magic) + pickled(version) + pickled(system | changes)
    return head + pickled(value) + pickled(keys or []) + raw


def blob(stream: bytes) -> Ops:
    """The call that published pickles make for each storage; Python's answer is a full `torch.load`."""
    return call("torch.storage", "_load_from_bytes", stream)


def nested_blobs(m: Marker, depth: int) -> bytes:
    """A stream in a stream, `depth` times, with a call in the innermost."""
    value = calls(m)["os_system"]
    for _ in range(depth):
        value = blob(legacy_stream(value))
    return pickled(value, 3)


def object_array(m: Marker) -> Ops:
    """A numpy array of objects, whose content is a pickle's affair."""
    dtype = build(call("numpy", "dtype", "O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    array = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"b")
    return build(array, (1, (1,), dtype, False, [calls(m)["os_system"]]))


def opcodes(m: Marker) -> Lazy:
    """Ways to call and to change things that need no REDUCE."""
    shell, system = push(m.shell), name("os", "system")
    namespace = Ops(name("argparse", "Namespace") + pickle.EMPTY_TUPLE + pickle.NEWOBJ)
    popen = name("subprocess", "Popen") + push((["touch", m.name],))
    rebuild, ordered_class = name("torch._utils", "_rebuild_parameter"), name("collections", "OrderedDict")
    return {
        "inst": lambda: pickled(Ops(pickle.MARK + shell + pickle.INST + b"os\nsystem\n")),
        "obj": lambda: pickled(Ops(pickle.MARK + system + shell + pickle.OBJ)),
        "newobj": lambda: pickled(Ops(popen + pickle.NEWOBJ)),
        "newobj_ex": lambda: pickled(Ops(popen + push({}) + pickle.NEWOBJ_EX), 4),
        "ext1": lambda: pickled(Ops(pickle.EXT1 + b"\x01")),
        "ext2": lambda: pickled(Ops(pickle.EXT2 + b"\x01\x01")),
        "ext4": lambda: pickled(Ops(pickle.EXT4 + struct.pack("<I", 1 << 31))),
        "text_protocol": lambda: b"cos\nsystem\n(S" + repr(m.shell).encode() + b"\ntR.",
        "text_protocol_eval": lambda: b"c__builtin__\neval\n(V" + m.code.encode() + b"\ntR.",
        "text_protocol_in_blob": lambda: pickled(blob(b"cos\nsystem\n(S" + repr(m.shell).encode() + b"\ntR."), 3),
        "persistent_id_text": lambda: b"Pos.system\n.",
        "persistent_id": lambda: pickled(Ops(push(("storage", system, "0", "cpu", 1)) + pickle.BINPERSID)),
        "build_on_class": lambda: pickled(build(ordered_class, {"__init__": name("builtins", "eval")})),
        "build_on_function": lambda: pickled(build(rebuild, {"__defaults__": (1, 2)})),
        "build_dunder_dict": lambda: pickled(build(namespace, {"__dict__": {}, "__class__": system})),
        "build_dunder_class": lambda: pickled(build(ordered(), {"__class__": name("argparse", "Namespace")})),
        "build_slots": lambda: pickled(build(namespace, (None, {"__setstate__": system}))),
        "build_setstate": lambda: pickled(build(build(namespace, {"__setstate__": system}), m.shell)),
        "build_reduce": lambda: pickled(build(namespace, {"__reduce__": system, "append": system})),
        "append_as_call": lambda: pickled(Ops(build(namespace, {"append": system}) + shell + pickle.APPEND)),
        "extend_as_call": lambda: pickled(
            Ops(
                build(namespace, {"extend": name("subprocess", "check_output")})
                + (pickle.MARK + push("touch") + push(m.name) + pickle.APPENDS)
            )
        ),
        "setitem_as_call": lambda: pickled(Ops(name("os", "environ") + push("A") + push("B") + pickle.SETITEM)),
        "object_array": lambda: pickled(object_array(m), 3),
        "object_scalar": lambda: pickled(
            call("numpy.core.multiarray", "scalar", call("numpy", "dtype", "O8", False, True), m.code.encode()), 3
        ),
        "stacked_name_of_pieces": lambda: pickled(Ops(push(["os"]) + push("system") + pickle.STACK_GLOBAL), 4),
        "stacked_name_number": lambda: pickled(Ops(push(1) + push(2) + pickle.STACK_GLOBAL), 4),
        "blob_with_call": lambda: nested_blobs(m, 1),
        "blob_in_blob_200": lambda: nested_blobs(m, 200),
        "blob_of_zip": lambda: pickled(blob(torch_zip_of(call("os", "system", m.shell))), 3),
        "blob_not_bytes": lambda: pickled(blob(7), 3),  # type: ignore[arg-type]
        "module_id_in_stream": lambda: legacy_stream(Ops(push(("module", system, "x.py", m.code)) + pickle.BINPERSID)),
        "stream_with_call": lambda: legacy_stream(call("os", "system", m.shell)),
        "keys_with_call": lambda: legacy_stream(ordered(), call("os", "system", m.shell)),  # type: ignore[arg-type]
        "stream_magic_with_call": lambda: legacy_stream(ordered(), magic=call("os", "system", m.shell)),
        "two_pickles": lambda: pickled({}) + pickled(call("os", "system", m.shell)),
    }


def torch_zip_of(value: Any) -> bytes:
    """A new torch.save file whose pickle is `value`."""
    file, content = io.BytesIO(), pickled(value)
    writer = torch._C.PyTorchFileWriter(file)
    writer.write_record("data.pkl", content, len(content))
    writer.write_end_of_file()
    return file.getvalue()


def laughs(empty: bytes, join: bytes, levels: int = 60) -> Ops:
    """A value that holds the one before twice, `levels` times: small in the file, 2**levels when walked or hashed."""
    steps = [empty + put(0) + pickle.POP]
    for level in range(levels):
        steps.append(join.replace(b"@", get(level)) + put(level + 1) + pickle.POP)
    return Ops(b"".join(steps) + get(levels))


def twice(kind: str) -> tuple[bytes, bytes]:
    """The opcodes of an empty container, and of one that holds `@` twice."""
    if kind == "tuple":
        return pickle.EMPTY_TUPLE, b"@@" + pickle.TUPLE2
    if kind == "list":
        return pickle.EMPTY_LIST, pickle.EMPTY_LIST + pickle.MARK + b"@@" + pickle.APPENDS
    pair = pickle.MARK + push("a") + b"@" + push("b") + b"@" + pickle.SETITEMS
    return pickle.EMPTY_DICT, pickle.EMPTY_DICT + pair


def bombs(m: Marker) -> Lazy:
    """Small files that ask for much time, memory or stack."""
    tuples = laughs(*twice("tuple"))
    key = Ops(pickle.EMPTY_DICT + tuples + push(1) + pickle.SETITEM)
    endless = Ops(pickle.EMPTY_LIST + put(0) + get(0) + pickle.APPEND)
    return {
        "laughs_list": lambda: pickled({"G_ema": laughs(*twice("list"))}),
        "laughs_dict": lambda: pickled({"G_ema": laughs(*twice("dict"))}),
        "laughs_tuple": lambda: pickled((1, 2, tuples)),
        "laughs_key": lambda: pickled(key),
        "laughs_set": lambda: pickled(call("builtins", "set", [tuples]), 3),
        "laughs_set_opcode": lambda: pickled(Ops(pickle.EMPTY_SET + pickle.MARK + tuples + pickle.ADDITEMS), 4),
        "laughs_frozenset": lambda: pickled(Ops(pickle.MARK + tuples + pickle.FROZENSET), 4),
        "laughs_size": lambda: pickled(call("torch._utils", "_rebuild_tensor_v2", None, 0, tuples, tuples, False, {})),
        "endless_list": lambda: pickled(endless),
        "endless_dict": lambda: pickled(Ops(pickle.EMPTY_DICT + put(0) + push("state_dict") + get(0) + pickle.SETITEM)),
        "deep_list": lambda: pickled(Ops(pickle.EMPTY_LIST * DEEP + pickle.APPEND * (DEEP - 1))),
        "deep_tuple": lambda: pickled(Ops(pickle.EMPTY_TUPLE + pickle.TUPLE1 * DEEP)),
        "deep_dict": lambda: pickled(Ops((pickle.EMPTY_DICT + push("g")) * DEEP + pickle.NONE + pickle.SETITEM * DEEP)),
        "deep_hash": lambda: pickled(
            Ops(pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * DEEP + pickle.NONE + pickle.SETITEM)
        ),
        "many_marks": lambda: pickled(Ops(pickle.MARK * MANY)),
        "many_copies": lambda: pickled(Ops(pickle.NONE + pickle.DUP * MANY)),
        "many_memos": lambda: pickled(Ops(pickle.NONE + pickle.MEMOIZE * MANY), 4),
        "many_puts": lambda: pickled(Ops(pickle.NONE + b"".join(put(i) for i in range(MANY // 10)))),
        "many_dicts": lambda: pickled(Ops(pickle.EMPTY_DICT * MANY)),
        "put_far": lambda: pickled(Ops(pickle.EMPTY_DICT + put((1 << 31) - 1))),
        "put_farthest": lambda: pickled(Ops(pickle.EMPTY_DICT + put((1 << 32) - 1))),
        "put_text_far": lambda: pickled(Ops(pickle.EMPTY_DICT + pickle.PUT + b"%d\n" % HUGE)),
        "put_text_negative": lambda: pickled(Ops(pickle.EMPTY_DICT + pickle.PUT + b"-1\n")),
        "get_unknown": lambda: pickled(get(7)),
        "digits": lambda: b"I" + b"9" * MANY + b"\n.",
        "digits_of_long": lambda: pickled(Ops(pickle.LONG + b"9" * MANY + b"L\n")),
        "line_without_end": lambda: pickled(Ops(pickle.GLOBAL + b"a" * MANY)),
        "long4_huge": lambda: pickled(Ops(pickle.LONG4 + struct.pack("<i", (1 << 31) - 1) + b"\x7f")),
        "long4_negative": lambda: pickled(Ops(pickle.LONG4 + struct.pack("<i", -8) + b"\x7f" * 8)),
        "long4_real": lambda: pickled(Ops(pickle.LONG4 + struct.pack("<i", MANY) + b"\x7f" * MANY)),
    }


def broken(m: Marker) -> Lazy:
    """Pickles that claim what is not there or are no pickles."""
    eight = struct.pack("<Q", HUGE)
    return {
        "binbytes8_huge": lambda: pickled(Ops(pickle.BINBYTES8 + eight + b"x"), 4),
        "binunicode8_huge": lambda: pickled(Ops(pickle.BINUNICODE8 + eight + b"x"), 4),
        "bytearray8_huge": lambda: pickled(Ops(pickle.BYTEARRAY8 + eight + b"x"), 5),
        "binbytes_over_end": lambda: pickled(Ops(pickle.BINBYTES + struct.pack("<I", (1 << 32) - 1) + b"x"), 3),
        "binunicode_over_end": lambda: pickled(Ops(pickle.BINUNICODE + struct.pack("<I", (1 << 32) - 1) + b"x")),
        "binstring_negative": lambda: pickled(Ops(pickle.BINSTRING + struct.pack("<i", -1) + b"x")),
        "frame_huge": lambda: pickled(Ops(pickle.FRAME + eight + pickle.EMPTY_DICT), 4),
        "frame_short": lambda: pickled(Ops(pickle.FRAME + struct.pack("<Q", 2) + push({"a": 1})), 4),
        "next_buffer": lambda: pickled(Ops(pickle.NEXT_BUFFER + pickle.READONLY_BUFFER), 5),
        "protocol_5": lambda: pickled({}, 5),
        "protocol_255": lambda: pickled({}, 255),
        "unknown_opcode": lambda: pickled(Ops(b"\xff")),
        "nul_opcodes": lambda: pickled(Ops(b"\0" * 4096)),
        "no_stop": lambda: pickled({"a": 1})[:-1],
        "only_protocol": lambda: b"\x80\x02",
        "only_stop": lambda: b"\x80\x02.",
        "pop_of_nothing": lambda: pickled(Ops(pickle.POP * 3)),
        "no_mark": lambda: pickled(Ops(pickle.NONE + pickle.TUPLE)),
        "stop_on_mark": lambda: pickled(Ops(pickle.MARK)),
        "reduce_without_tuple": lambda: pickled(Ops(name("collections", "OrderedDict") + push(1) + pickle.REDUCE)),
        "reduce_of_text": lambda: pickled(apply(push("os.system"), m.shell)),
        "unhashable_key": lambda: pickled(Ops(pickle.EMPTY_DICT + push([]) + push(1) + pickle.SETITEM)),
        "odd_items": lambda: pickled(Ops(pickle.EMPTY_DICT + pickle.MARK + push("a") + pickle.SETITEMS)),
        "append_to_number": lambda: pickled(Ops(push(1) + push(2) + pickle.APPEND)),
        "setitem_on_list": lambda: pickled(Ops(push([1]) + push(0) + push(2) + pickle.SETITEM)),
        "setitem_on_name": lambda: pickled(Ops(name("collections", "OrderedDict") + items({"a": 1}))),
        "not_utf8": lambda: pickled(Ops(pickle.SHORT_BINUNICODE + b"\x04\xff\xfe\xfd\xfc"), 4),
        "lone_surrogate": lambda: pickled({"\ud800\udc00\ud800": 1}),
        "name_not_ascii": lambda: pickled(Ops(pickle.GLOBAL + b"\xf0\x9f\x92\xa9\nsystem\n")),
        "nothing_in_it": lambda: pickled({}),
        "none": lambda: pickled(None),
        "text_only": lambda: pickled("G_ema"),
    }


def malicious_pickles(m: Marker) -> Lazy:
    """All of them by name."""
    return calls_in_a_file(m) | opcodes(m) | bombs(m) | broken(m)
