# shellcheck shell=bash disable=SC2034  # pretrain.sh uses `python`
module purge
module load cuda/12.8 || exit 1
export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
python=(/home/me/envs/pretrain/bin/python)
