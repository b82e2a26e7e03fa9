"""A worker ends with the process that started it."""

import os
import signal
import subprocess
import sys

WORKER = """
import multiprocessing, os, signal, sys, time
from gauntlet.system.orphan import end_with_parent

def work(watched):
    if watched:
        end_with_parent()
        end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    multiprocessing.Process(target=work, args=(sys.argv[1] == "watched",)).start()
    time.sleep(600)
"""


def start(kind):
    process = subprocess.Popen([sys.executable, "-c", WORKER, kind], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_a_worker_ends_with_its_killed_parent():
    parent, _ = start("watched")
    parent.kill()
    rest, _ = parent.communicate(timeout=60)  # ends once the worker has closed it too
    assert rest == ""


def test_a_process_without_the_watch_outlives_it():
    parent, pid = start("alone")
    parent.kill()
    parent.wait()
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)
    parent.stdout.close()
