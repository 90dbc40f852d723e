"""A training pipeline whose last step, `quantgate submit`, starts the run on the model that it has trained.

    python manifests/examples/training.py training.yaml

The step `train` stands for your own. It writes the folder that save_pretrained makes to the S3 prefix that it is given.
Every profile of Kubeflow may use shared/ of the bucket mlpipeline; quantgate reads the model there.
The account of the pipeline's runs needs the Role quantgate-submit, see docs/cluster.md.
"""

import sys

from kfp import compiler, dsl, kubernetes

TRAIN_IMAGE = "registry.example.com/training/train:1.0.0"
IMAGE = "registry.example.com/quantgate/quantgate:0.1.0"
QUANTIZE_IMAGE = "registry.example.com/quantgate/quantgate-quantize:0.1.0"
SUBMIT = (
    'quantgate compile --out /tmp/pipeline.yaml --image "$1" --quantize-image "$2" && shift 2 && '
    'exec quantgate submit --pipeline /tmp/pipeline.yaml "$@"'
)
"""With --detach the step ends when the run has started; without, it follows the run and fails with its verdict."""


@dsl.container_component
def train(models: str, run: str) -> dsl.ContainerSpec:
    """Your own training, which uploads its model to the S3 prefix `models`/`run`."""
    return dsl.ContainerSpec(image=TRAIN_IMAGE, command=["python", "train.py"], args=[f"--upload-to={models}/{run}"])


@dsl.container_component
def submit(models: str, run: str) -> dsl.ContainerSpec:
    """Start quantgate's run on the model at the S3 prefix `models`/`run`."""
    return dsl.ContainerSpec(
        image=IMAGE,
        command=["sh", "-c", SUBMIT, "submit", IMAGE, QUANTIZE_IMAGE],
        args=[
            "--in-cluster",
            "--detach",
            "--namespace=quantgate",
            f"--model={models}/{run}",
            "--suite=openllm",
            "--use-case=general-chat",
        ],
    )


@dsl.pipeline(name="train-and-judge")
def train_and_judge(models: str = "s3://mlpipeline/shared/models") -> None:
    """Train a model into a prefix of its own, and start its run."""
    run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    trained = train(models=models, run=run).set_caching_options(False)
    submitted = submit(models=models, run=run).after(trained).set_caching_options(False)
    # With this label the PodDefault of pod-default.yaml mounts a token for Kubeflow Pipelines.
    kubernetes.add_pod_label(submitted, "access-ml-pipeline", "true")


if __name__ == "__main__":
    compiler.Compiler().compile(train_and_judge, sys.argv[1])
