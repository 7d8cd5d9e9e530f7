"""The steps of the pipeline, one PTransform in each file. They wire; the work is done by plain code below them."""
