# shellcheck shell=bash
# Your cluster: what each job runs first on its node, submitted by sbatch or by `clinical-pretrain submit`. Ranks inherit
# the variables that are exported here. A failing command doesn't end the job: add `|| exit 1` where it should.
# Examples: slurm/sites/.

# module load cuda/12.8 || exit 1
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# Only for slurm/pretrain.sh, instead of .venv/bin/python of the repository (`submit` takes `python` and `container` of
# slurm/site.yaml):
# python=(/home/me/envs/pretrain/bin/python)
# python=(apptainer exec --nv --bind /project /project/images/pytorch.sif python3)
