"""Settings of this process that must stand before torch is imported. Importing this module makes them.

* Threads that wait for work must not spin: two spinning threads on busy cores cost a factor of ten. Hence also one
  thread a process unless the user says otherwise.
* oneDNN must not pick AMX for bfloat16 on its own: on virtual machines that show the feature without granting it, a
  matrix product dies of an illegal instruction.
"""

import os

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
}.items():
    os.environ.setdefault(_name, _value)
