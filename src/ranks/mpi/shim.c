/* The few functions of MPI that ranks need, with plain types. Open MPI and MPICH differ in the types and constants of their
   headers, so that only C compiled against them can call either. All calls come from the one thread that called `init`. */
#include <mpi.h>
#include <stdlib.h>

enum { TAG = 7 };

int dpo_lora_mpi_init(int *rank, int *size)
{
    int provided;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED)
        return 1;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return MPI_Comm_rank(MPI_COMM_WORLD, rank) != MPI_SUCCESS || MPI_Comm_size(MPI_COMM_WORLD, size) != MPI_SUCCESS;
}

/* Starts to send; NULL if that fails. The bytes must stay until `test` returns 1. */
void *dpo_lora_mpi_send(const void *bytes, int count, int to)
{
    MPI_Request *request = malloc(sizeof *request);
    if (request && MPI_Isend(bytes, count, MPI_BYTE, to, TAG, MPI_COMM_WORLD, request) != MPI_SUCCESS) {
        free(request);
        return NULL;
    }
    return request;
}

/* Whether a message waits that no receive was started for: 1 with its sender and length, 0 if none, -1 if that fails. */
int dpo_lora_mpi_probe(int *from, int *count)
{
    int found = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, TAG, MPI_COMM_WORLD, &found, &status) != MPI_SUCCESS)
        return -1;
    if (!found)
        return 0;
    *from = status.MPI_SOURCE;
    return MPI_Get_count(&status, MPI_BYTE, count) == MPI_SUCCESS ? 1 : -1;
}

/* Starts to receive the next message of a rank; NULL if that fails. */
void *dpo_lora_mpi_receive(void *bytes, int count, int from)
{
    MPI_Request *request = malloc(sizeof *request);
    if (request && MPI_Irecv(bytes, count, MPI_BYTE, from, TAG, MPI_COMM_WORLD, request) != MPI_SUCCESS) {
        free(request);
        return NULL;
    }
    return request;
}

/* Whether what was started is done: 1 if so (it is freed), 0 if not, -1 if it failed (it is freed). */
int dpo_lora_mpi_test(void *started)
{
    int done = 0;
    int failed = MPI_Test(started, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS;
    if (done || failed)
        free(started);
    return failed ? -1 : done;
}

void dpo_lora_mpi_finalize(void)
{
    MPI_Finalize();
}
