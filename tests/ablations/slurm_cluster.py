"""A Slurm cluster of two machines on this one: a controller and two slurmd, with ports and folders of their own."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress

CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=5
MpiDefault=none
SwitchType=switch/none
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=4000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
# Debian's names first: under the plain ones some systems have other programs.
PROGRAMS = {name: (f"{name}-wlm", name) for name in ("slurmctld", "slurmd", "slurmstepd")} | {
    name: (name,) for name in ("munged", "sbatch", "squeue", "scancel", "scontrol")
}


def missing():
    """Return what this machine lacks to run a cluster; empty if nothing."""
    lacking = [name for name, names in PROGRAMS.items() if not any(map(shutil.which, names))]
    if lacking:
        return f"no {', '.join(lacking)} here (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "a cluster for tests is started as root"


class Cluster:
    """Two machines, n1 and n2, of one processor each."""

    def __init__(self, place):
        self.place = place
        self.processes = {}
        for name in ("state", "spool/n1", "spool/n2"):
            (place / name).mkdir(parents=True)
        host = socket.gethostname().partition(".")[0]
        ports = dict(zip(("controller", "n1", "n2"), free_ports(3), strict=True))
        self.file = place / "slurm.conf"
        self.file.write_text(CONFIGURATION.format(host=host, place=place, **ports))

    def start(self):
        key = self.place / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.place.chmod(0o755)
        files = {name: self.place / f"munged.{name}" for name in ("pid", "log", "seed")}
        options = [f"--{name}-file={path}" for name, path in files.items()]
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.place}/munge.socket", *options
        )
        wait_for((self.place / "munge.socket").exists, 10)
        self._start("slurmctld", "-D", "-f", str(self.file), "-i")
        for node in ("n1", "n2"):
            self.start_node(node)
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%T").split() == ["idle"], 40)

    def start_node(self, node):
        stepd = next(path for name in PROGRAMS["slurmstepd"] if (path := shutil.which(name)))
        self._start("slurmd", "-D", "-f", str(self.file), "-N", node, "-d", stepd, name=node)

    def kill_node(self, node):
        """Kill a machine's slurmd; what it started works on, as after a network split."""
        self.processes[node].kill()
        self.processes[node].wait()

    def ask(self, program, *arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False).stdout

    def stop(self):
        self.ask("scancel", "--user", "root")
        with suppress(AssertionError):
            wait_for(lambda: not self.ask("squeue", "-h"), 15)
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, program, *arguments, name=None):
        path = next(path for one in PROGRAMS[program] if (path := shutil.which(one)))
        with (self.place / f"{name or program}.out").open("ab") as said:
            self.processes[name or program] = subprocess.Popen(
                [path, *arguments], stdout=said, stderr=said, start_new_session=True
            )


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
