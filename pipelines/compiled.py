"""The command `quantgate compile`: the pipeline as the YAML that Kubeflow Pipelines takes, fitted to a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from components.errors import PrerequisiteError


def compile_pipeline(
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML file to write.")] = Path("pipeline.yaml"),
    image: Annotated[
        str, typer.Option(help="Container image of the steps; give a digest, or a tag that never moves.")
    ] = "quantgate:0.1.0",
    quantize_image: Annotated[
        str, typer.Option(help="That of resolve and quantize, with PyTorch and CUDA.")
    ] = "quantgate-quantize:0.1.0",
    parallelism: Annotated[int, typer.Option(help="Variants under way at a time, each with a server of its own.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="For quantize; 0 where the cluster has none.")] = 1,
    accelerator: Annotated[str, typer.Option(help="The GPUs' name as a resource.")] = "nvidia.com/gpu",
    quantize_memory: Annotated[str, typer.Option(help="The most memory that quantize may take.")] = "64Gi",
    node: Annotated[
        list[str] | None, typer.Option(help="LABEL=VALUE of the nodes for quantize; may be given again.")
    ] = None,
    cache_claim: Annotated[
        str, typer.Option(help="Volume claim that keeps models between runs; empty: none.")
    ] = "quantgate-cache",
    serving: Annotated[str, typer.Option(help="What serves a variant: kserve or deployment.")] = "kserve",
    pull_secret: Annotated[str, typer.Option(help="Secret of the images' registry.")] = "",
) -> None:
    """Write the pipeline as the YAML that Kubeflow Pipelines takes."""
    if out.suffix not in (".yaml", ".yml"):
        raise PrerequisiteError(f"kfp writes YAML: give a file that ends in .yaml, not {out}.")
    from kfp import compiler

    from pipelines.cluster import Cluster, fitted

    cluster = Cluster(
        image=image,
        quantize_image=quantize_image,
        parallelism=parallelism,
        gpus=gpus,
        accelerator=accelerator,
        quantize_memory=quantize_memory,
        cache_claim=cache_claim,
        serving=serving,
        node_selector=labels(node or []),
        pull_secret=pull_secret,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(fitted(cluster), str(out))
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {out}: {error.strerror}. Choose another file with --out.") from None
    print(f"Wrote {out}")


def labels(given: list[str]) -> dict[str, str]:
    """Labels by name; raises PrerequisiteError for what is none."""
    found = [each.partition("=") for each in given]
    for text, (name, equals, _) in zip(given, found, strict=True):
        if not name or not equals:
            raise PrerequisiteError(f"--node {text} is no label. Give one like gpu=h100.")
    return {name: value for name, _, value in found}
