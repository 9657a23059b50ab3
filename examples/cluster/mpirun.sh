#!/bin/sh
# One training on the hosts named here, one process for each of their 8 GPUs, by Open MPI.
# The first host has process 0, at which all others meet; the port is any that is free there.
exec mpirun --host node0:8,node1:8 -np 16 \
    -x PATH -x JAX_COORDINATOR_ADDRESS=node0:55527 \
    scmkit train --plugin trigflow --plugin sct --data digits --batch-size 512 --steps 20000 \
    --out /shared/runs --name digits
