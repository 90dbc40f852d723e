"""quantgate's one package, so that an installed wheel adds a single name to an environment.

components/  the steps and what lies below them (a link to the top-level folder)
pipelines/   the pipeline, its command line, and Kubeflow (a link to the top-level folder)

Import `quantgate.components…` and `quantgate.pipelines…`, never the folders by their bare names.
"""
