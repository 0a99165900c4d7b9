"""The papers' tables from finished runs, our numbers beside theirs, as Markdown, CSV and LaTeX.

    python run.py --config=paper_table                             of all finished runs in $AIRE_WORKDIR or ./runs
    python run.py --config=paper_table --config.runs=FOLDER        of those in FOLDER and below,
                                                                   such as the published ones in experiments/results
    python run.py --config=paper_table --config.run=missing        first trains and prunes what is missing
    … --config.size=small --config.seeds="(0,1,2)" --config.layers="('s5',)" --config.tasks="('lra_listops',)"
    … --config.folders.lra_retrieval=FOLDER                        a task's files, if they are not downloaded
    … --config.cluster=slurm --config.jobs.slurm_partition=NAME    each task as one job: `pip install submitit`

Runs of TASK_prune and of compare_methods count. Task, layer and size of a run are read from its saved config.

`missing` prints what it will run, and continues with the next task if one fails. After an interruption, run the same
command again to resume. At full size every task takes hours to days on one accelerator; none was measured here.
"""

from ml_collections import ConfigDict

from configs import common

# By cost at full size, cheapest first: steps × batch × length × depth × width², not measured.
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
            "run": "none",  # or "missing"; all settings below are about the missing runs
            "size": "full",  # or "small"; "smoke" for tests
            "layers": ("s5", "s4d", "mamba"),
            "seeds": (),  # empty: each config's own
            "tasks": TASKS,
            "folders": dict.fromkeys(TASKS, ""),  # of a task's files: its config's data.folder or data.lra_release
            "cluster": "none",  # in sequence on this machine; "local": all jobs at once on this machine; "slurm"
            "jobs": {  # resources of a job, as submitit names them; 0 and "" are not passed on
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
