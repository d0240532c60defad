"""Peak memory of running an ONNX file, in a process that does nothing else."""

import json
import subprocess
import sys
from pathlib import Path

# The child resets the kernel's high-water mark after the imports, which themselves need more than a small network.
PROGRAM = """
import json, sys
import numpy, onnxruntime
def kilobytes(field):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(field)).split()[1])
path, threads, shapes = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.log_severity_level = 3
types = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32"}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = kilobytes("VmRSS")
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
inputs = {i.name: numpy.zeros(s, types.get(i.type, "float32")) for i, s in zip(session.get_inputs(), shapes)}
for _ in range(3):
    session.run(None, inputs)
print((kilobytes("VmHWM") - before) * 1024)
"""


def peak_memory_bytes(path: Path | str, shapes: list[tuple[int, ...]], threads: int = 1) -> int | None:
    """Peak resident bytes that loading the file and running it on zeros adds to the bare runtime; None if it cannot be run.

    The child imports numpy and onnxruntime only, so that torch's hundreds of megabytes are not counted. Linux only.
    """
    if not Path("/proc/self/clear_refs").exists():  # Linux only
        return None
    command = [sys.executable, "-c", PROGRAM, str(path), str(threads), json.dumps([list(shape) for shape in shapes])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return int(done.stdout) if done.returncode == 0 else None
