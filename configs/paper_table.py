"""The papers' tables from finished runs: ours beside their numbers, as Markdown, CSV and LaTeX.

    python run.py --config=paper_table                             of all finished runs in $AIRE_WORKDIR or ./runs
    python run.py --config=paper_table --config.runs=FOLDER        of those in FOLDER and below,
                                                                   such as the published ones in experiments/results
    python run.py --config=paper_table --config.run=missing        first trains and prunes what is missing
    … --config.size=small --config.seeds="(0,1,2)" --config.layers="('s5',)" --config.tasks="('lra_listops',)"
    … --config.folders.lra_retrieval=FOLDER                        a task's files, where they are not fetched
    … --config.cluster=slurm --config.jobs.slurm_partition=NAME    each task as one job: `pip install submitit`

Runs of both kinds count: NAME_prune and compare_methods. What a run is of is read from the config saved in it.

`missing` says what it will run, and goes on with the next task where one fails. Stopped or killed, the same command
goes on where it was. At full size every task takes hours to days on one accelerator; none was measured here.
"""

from ml_collections import ConfigDict

from configs import common

# From the cheapest to the dearest at full size, by steps × examples × length × depth × width², not by a measurement.
TASKS = (
    "smnist",
    "fashion_mnist",
    "psmnist",
    "lra_listops",
    "lra_text",
    "speech_commands",
    "speech_commands_8khz",
    "lra_retrieval",
    "lra_pathfinder",
    "lra_image",
    "scifar",
    "lra_pathx",
)


def get_config(variants: str = "") -> ConfigDict:
    common.parse_variants(variants, {})
    return ConfigDict(
        {
            "experiment": "paper_table",
            "name": "paper_table",
            "runs": "",  # the folder to search, and to run in; empty: $AIRE_WORKDIR or ./runs
            "run": "none",  # or "missing"; all below is about what that runs
            "size": "full",  # or "small"; "smoke" for tests
            "layers": ("s5", "s4d"),
            "seeds": (),  # empty: each config's own
            "tasks": TASKS,
            "folders": dict.fromkeys(TASKS, ""),  # of a task's files: its config's data.folder or data.lra_release
            "cluster": "none",  # one after the other, here; "local": all jobs at once, here; "slurm"
            "jobs": {  # what a job asks for, in submitit's words; 0 and "" are not passed on
                "timeout_min": 3 * 24 * 60,
                "cpus_per_task": 8,
                "gpus_per_node": 1,
                "mem_gb": 64,
                "slurm_partition": "",
                "slurm_account": "",
                "slurm_qos": "",
                "slurm_constraint": "",
            },
        }
    )
