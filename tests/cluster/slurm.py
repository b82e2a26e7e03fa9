"""A Slurm of one node on this machine, for tests: munge, a controller and a node daemon, without accounting.

    python tests/cluster/slurm.py start FOLDER     prints the file that SLURM_CONF must name
    python tests/cluster/slurm.py stop FOLDER

Needs root and the Debian packages slurm-wlm and munge. Only processes that it has started are ended.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

CONFIG = """\
ClusterName=gauntlet
SlurmctldHost={host}(127.0.0.1)
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={other}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0,defer
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=5
MinJobAge=300
MaxArraySize=11
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=1
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""  # noqa: E501

DAEMONS = ("slurmctld", "slurmd", "munged")
TIMEOUT = 60


def missing() -> str:
    """Why no Slurm can be started here; empty: it can."""
    lacking = [name for name in (*DAEMONS, "sbatch", "scontrol") if shutil.which(name, path=_path()) is None]
    if lacking:
        return f"Slurm is not installed (no {', '.join(lacking)}): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root can start a Slurm on this machine"


def start(folder: Path) -> Path:
    """Start it with its files in `folder`, which must be empty and which all users can reach; the file that SLURM_CONF
    must name."""
    for name in ("state", "spool", "log"):
        (folder / name).mkdir(parents=True)
    for path in (folder, folder / "state", folder / "log"):
        shutil.chown(path, "slurm")
    folder.chmod(0o755)
    port, other = _free_ports()
    conf = folder / "slurm.conf"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
    host = socket.gethostname().partition(".")[0]
    conf.write_text(
        CONFIG.format(host=host, folder=folder, port=port, other=other, cores=os.cpu_count(), memory=memory)
    )
    _munge(folder)
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": _path()}
    for command in (["slurmctld", "-f", str(conf)], ["slurmd", "-f", str(conf), "-N", host]):
        subprocess.run(command, env=environment, check=True, timeout=TIMEOUT)
    until = time.monotonic() + TIMEOUT
    while "idle" not in _asked(["sinfo", "-h", "-o", "%t"], environment):
        if time.monotonic() > until:
            raise RuntimeError(f"the node does not come up; see {folder}/log")
        time.sleep(0.5)
    return conf


def stop(folder: Path) -> None:
    """End what `start` has started, and the jobs."""
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    _asked(["scancel", "--user=root", "--full"], environment)
    until = time.monotonic() + 15
    while _asked(["squeue", "-h"], environment) and time.monotonic() < until:
        time.sleep(0.5)
    for name in DAEMONS:
        try:
            pid = int((folder / f"{name}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
            for _ in range(100):
                os.kill(pid, 0)
                time.sleep(0.1)
        except (OSError, ValueError):  # gone, or never there
            continue


def _munge(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    options = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munged.seed"}
    words = [f"--{name}={folder}/{file}" for name, file in options.items()]
    subprocess.run(
        ["munged", "--force", f"--key-file={key}", *words], env=os.environ | {"PATH": _path()}, check=True,
        timeout=TIMEOUT, capture_output=True,
    )  # fmt: skip


def _asked(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return done.stdout


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        for it in (one, two):
            it.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


if __name__ == "__main__":
    verb, place = sys.argv[1], Path(sys.argv[2]).resolve()
    if verb == "stop":
        stop(place)
    elif why := missing():
        sys.exit(f"error: {why}")
    else:
        sys.stdout.write(f"{start(place)}\n")
