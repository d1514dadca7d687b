/*
 * An MPI job that stands in one chosen place until it is let go.
 *
 *     mpi-hold rendezvous|collective|window|uninterruptible FILE
 *
 * Rank 0 enters the operation; the last rank stays out of MPI until FILE is there, in its own
 * domain. Then it takes part, all that was sent is compared, and rank 0 prints how long it has
 * waited.
 *
 * - rendezvous: rank 0 sends 1 MiB, far above what goes unasked: it waits in MPI_Send for the
 *   other's answer.
 * - collective: rank 0 has entered MPI_Allreduce, and waits in it.
 * - window: rank 0 sends small messages without end; nobody reads, the last rank's window closes,
 *   and rank 0 waits.
 * - uninterruptible: as collective, and the last rank waits in state D: in vfork, for its child.
 *
 * It prints "held" when rank 0 is about to enter the operation. The exit status is 1 if anything
 * came damaged.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 16 MiB in eager messages: more than a connection's buffers take at both ends (4 and 6 MiB where
 * nobody has changed that). */
enum { LARGE = 1 << 20, SMALL = 32 << 10, MESSAGES = 512, NUMBERS = LARGE / sizeof(uint64_t) };

static int rank, last;

static void wait_for(const char *file)
{
    while (access(file, F_OK) != 0)
        usleep(20 * 1000);
}

/* vfork's parent sleeps uninterruptibly until its child has gone. */
static void wait_in_vfork(const char *file)
{
    if (vfork() == 0) {
        wait_for(file);
        _exit(0);
    }
}

static void fill(unsigned char *data, size_t length, uint64_t seed)
{
    for (size_t at = 0; at < length; at++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        data[at] = (unsigned char)(seed >> 56);
    }
}

/* Returns whether what came is what was sent. */
static int receive(unsigned char *data, unsigned char *expected, int length, uint64_t seed)
{
    MPI_Recv(data, length, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    fill(expected, (size_t)length, seed);
    return memcmp(data, expected, (size_t)length) == 0;
}

static int rendezvous(unsigned char *data, unsigned char *expected)
{
    if (rank == last)
        return receive(data, expected, LARGE, 1);
    fill(data, LARGE, 1);
    if (rank == 0)
        MPI_Send(data, LARGE, MPI_BYTE, last, 0, MPI_COMM_WORLD);
    return 1;
}

static int window(unsigned char *data, unsigned char *expected)
{
    int good = 1;

    for (int n = 0; n < MESSAGES; n++) {
        if (rank == 0) {
            fill(data, SMALL, (uint64_t)n);
            MPI_Send(data, SMALL, MPI_BYTE, last, 0, MPI_COMM_WORLD);
        } else if (rank == last) {
            good &= receive(data, expected, SMALL, (uint64_t)n);
        }
    }
    return good;
}

static int collective(unsigned char *data, unsigned char *expected)
{
    uint64_t *mine = (uint64_t *)data, *sum = (uint64_t *)expected;
    uint64_t ranks = (uint64_t)last + 1;

    for (uint64_t n = 0; n < NUMBERS; n++)
        mine[n] = n + (uint64_t)rank;
    MPI_Allreduce(mine, sum, NUMBERS, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    for (uint64_t n = 0; n < NUMBERS; n++)
        if (sum[n] != ranks * n + ranks * (ranks - 1) / 2)
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    unsigned char *data = malloc(LARGE), *expected = malloc(LARGE);
    int good, all;
    double begun;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &last);
    last--;
    if (argc != 3 || last < 1 || !data || !expected) {
        fprintf(stderr, "usage: mpi-hold rendezvous|collective|window|uninterruptible FILE, on two "
                        "ranks or more\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    /* Opens the connections. */
    MPI_Barrier(MPI_COMM_WORLD);
    begun = MPI_Wtime();
    if (rank == 0) {
        printf("held\n");
        fflush(stdout);
    }
    if (rank == last) {
        if (strcmp(argv[1], "uninterruptible") == 0)
            wait_in_vfork(argv[2]);
        else
            wait_for(argv[2]);
    }
    if (strcmp(argv[1], "rendezvous") == 0)
        good = rendezvous(data, expected);
    else if (strcmp(argv[1], "window") == 0)
        good = window(data, expected);
    else
        good = collective(data, expected);
    MPI_Allreduce(&good, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (rank == 0)
        printf("{\"good\":%d,\"held_s\":%.3f}\n", all, MPI_Wtime() - begun);
    free(data);
    free(expected);
    MPI_Finalize();
    return all ? 0 : 1;
}
