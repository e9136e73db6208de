"""A Ray cluster of two nodes on this machine, a raylet each; obeys lines, ends with its standard input.

    python tests/flow/ray_nodes.py      prints the address; `kill` kills the second node, `add` adds another one
"""

import os
import shutil
import sys
import tempfile

STORE = 80 * 2**20


def serve() -> None:
    """Prints an answer to every line: of `kill`, how many processes of milscope the node had."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    folder = tempfile.mkdtemp(prefix="ray")  # a short path: the sockets in it may have 107 characters
    os.environ["RAY_TMPDIR"] = folder
    os.mkdir(os.path.join(folder, "ray"))
    import psutil
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        node = cluster.add_node(**options)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "add":
                node = cluster.add_node(**options)
                print("added", flush=True)
            else:
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                below = raylet.children(recursive=True)
                workers = [each for each in below if "spawn_main" in " ".join(each.cmdline())]
                raylet.suspend()  # as when the power fails: nobody tidies up, and nobody finishes what it was at
                for each in set(below) - set(workers):  # ours have to notice themselves
                    each.kill()
                cluster.remove_node(node, allow_graceful=False)
                print(*[worker.pid for worker in workers], flush=True)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    serve()
