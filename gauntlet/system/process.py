"""Settings of this process that must stand before torch is imported. Importing this module makes them.

* Threads that wait for work must not spin: two spinning threads on busy cores cost a factor of ten. Hence also one
  thread a process unless the user says otherwise.
* oneDNN must not pick AMX for bfloat16 on its own: on virtual machines that show the feature without granting it, a
  matrix product dies of an illegal instruction.
* Attacks shrink their batches as samples break, so that buffers of ever new sizes come and go. glibc would keep them in
  a heap that only grows, and oneDNN a compiled kernel for each size: both are told to give back. Only buffers
  beyond 32 MiB come from the system and return to it one by one: each pays a page fault for every 4 KiB, which at the
  size of a batch of images costs more than to write it. The heap of the others is given back between chunks.
* Presets of launchers have the names of the plugins that they preset. Hydra then checks them against the plugins' own
  types, which is wanted, and warns at length, which is not.
"""

import ctypes
import os
import sys
import warnings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}.items():
    os.environ.setdefault(_name, _value)


warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


_library = _glibc()
if _library is not None:
    _library.mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)
    _library.mallopt(_M_TRIM_THRESHOLD, 64 * 1024 * 1024)


def give_back() -> None:
    """Return the memory that is free to the operating system."""
    if _library is not None:
        _library.malloc_trim(0)
