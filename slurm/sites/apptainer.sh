# shellcheck shell=bash disable=SC2034  # pretrain.sh uses `python`
# An example, not tried; apptainer.yaml says how the image is made.
export HF_HOME=/project/huggingface
python=(apptainer exec --nv --bind /project /project/images/pytorch.sif python3)
