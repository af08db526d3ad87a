"""Scripts on eight devices, in a process of their own: devices are made when JAX starts."""

import os
import subprocess
import sys


def on_eight_devices(code, **environment):
    """What the script prints; warnings are errors in it."""
    # Eight devices on few busy cores wait long for one another; XLA's default is 40 seconds.
    flags = "--xla_force_host_platform_device_count=8"
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=240"
    env = os.environ | {"XLA_FLAGS": flags}
    env |= {"JAX_PLATFORMS": "cpu"} | environment
    run = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
