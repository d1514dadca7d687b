/*
 * A ring over MPI that notices damage, loss and pauses.
 *
 *     mpi-ring SECONDS [PAYLOAD_BYTES]
 *
 * A token goes round all ranks until SECONDS have passed (0: until killed). It carries a sequence
 * number, the rank that sent it and the CRC-32 of its payload, which every rank checks and then
 * changes. Each rank times its iterations, from one arrival of the token to the next. Rank 0 prints
 * a line of JSON a second while the ring turns, with its longest iteration since the last, and at
 * the end
 *
 *     {"rounds":N,"bad":N,"longest_stall_ms":X,"median_ms":X,
 *      "ranks":[{"rank":R,"longest_stall_ms":X,"median_ms":X},...]}
 *
 * where a stall is an iteration's time less the median, and the figures without a rank are the
 * worst of all ranks.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct token {
    uint64_t sequence;
    uint32_t source;
    uint32_t crc;
    uint32_t last; /* the ring ends with this round */
    uint32_t unused;
};

struct samples {
    double *ms;
    size_t count;
    size_t room;
};

struct summary {
    double longest_stall_ms;
    double median_ms;
    uint64_t bad;
    uint64_t rounds;
};

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
        crc_table[byte] = crc;
    }
}

static uint32_t crc32_of(const unsigned char *data, size_t length)
{
    uint32_t crc = 0xffffffffu;

    while (length--)
        crc = crc_table[(crc ^ *data++) & 0xff] ^ (crc >> 8);
    return ~crc;
}

static void add_sample(struct samples *samples, double ms)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 1024;
        samples->ms = realloc(samples->ms, samples->room * sizeof(*samples->ms));
        if (!samples->ms) {
            fprintf(stderr, "mpi-ring: out of memory\n");
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
    samples->ms[samples->count++] = ms;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

static struct summary summarize(struct samples *samples, uint64_t bad)
{
    struct summary summary = { .bad = bad, .rounds = samples->count };

    if (samples->count) {
        qsort(samples->ms, samples->count, sizeof(*samples->ms), compare);
        summary.median_ms = samples->ms[samples->count / 2];
        summary.longest_stall_ms = samples->ms[samples->count - 1] - summary.median_ms;
    }
    return summary;
}

/* Different in every round and on every rank, at little cost: one byte in 64 changes. */
static void change_payload(unsigned char *payload, size_t length, uint64_t sequence, int rank)
{
    for (size_t at = sequence % 64; at < length; at += 64)
        payload[at] = (unsigned char)(payload[at] * 5 + sequence + (unsigned)rank + 1);
}

static void send_token(unsigned char *message, size_t length, struct token token, int rank,
                       int ranks)
{
    unsigned char *payload = message + sizeof(token);

    change_payload(payload, length, token.sequence, rank);
    token.source = (uint32_t)rank;
    token.crc = crc32_of(payload, length);
    memcpy(message, &token, sizeof(token));
    MPI_Send(message, (int)(sizeof(token) + length), MPI_BYTE, (rank + 1) % ranks, 0,
             MPI_COMM_WORLD);
}

/* Receives the token from the rank before; adds to *bad what is wrong with it. */
static struct token receive_token(unsigned char *message, size_t length, uint64_t expected,
                                  int rank, int ranks, uint64_t *bad)
{
    int before = (rank + ranks - 1) % ranks, count;
    struct token token;
    MPI_Status status;

    MPI_Recv(message, (int)(sizeof(token) + length), MPI_BYTE, before, 0, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &count);
    memcpy(&token, message, sizeof(token));
    if ((size_t)count != sizeof(token) + length || token.sequence != expected ||
        token.source != (uint32_t)before ||
        token.crc != crc32_of(message + sizeof(token), length)) {
        (*bad)++;
        fprintf(stderr, "mpi-ring: rank %d: bad token in round %llu\n", rank,
                (unsigned long long)expected);
    }
    return token;
}

static void print_progress(double start, double now, double iteration, uint64_t rounds,
                           uint64_t bad)
{
    static double last, longest;

    if (iteration > longest)
        longest = iteration;
    if (now - last < 1.0)
        return;
    last = now;
    printf("{\"progress\":%llu,\"bad\":%llu,\"elapsed_ms\":%.0f,\"longest_ms\":%.0f}\n",
           (unsigned long long)rounds, (unsigned long long)bad, (now - start) * 1000,
           longest * 1000);
    fflush(stdout);
    longest = 0;
}

static struct summary turn(unsigned char *message, size_t length, double seconds, int rank,
                           int ranks)
{
    double start = MPI_Wtime(), last_arrival = start;
    struct samples samples = { 0 };
    struct summary summary;
    struct token token = { 0 };
    uint64_t bad = 0;

    for (uint64_t sequence = 0; !token.last; sequence++) {
        double now;

        if (rank == 0) {
            token.sequence = sequence;
            token.last = seconds > 0 && MPI_Wtime() - start >= seconds;
            send_token(message, length, token, rank, ranks);
        }
        token = receive_token(message, length, sequence, rank, ranks, &bad);
        now = MPI_Wtime();
        /* The first iteration holds the other ranks' start. */
        if (sequence > 0)
            add_sample(&samples, (now - last_arrival) * 1000);
        if (rank != 0)
            send_token(message, length, token, rank, ranks);
        else
            print_progress(start, now, now - last_arrival, sequence + 1, bad);
        last_arrival = now;
    }
    summary = summarize(&samples, bad);
    free(samples.ms);
    return summary;
}

static void print_summaries(const struct summary *all, int ranks)
{
    struct summary worst = all[0];

    for (int rank = 1; rank < ranks; rank++) {
        worst.bad += all[rank].bad;
        if (all[rank].longest_stall_ms > worst.longest_stall_ms)
            worst.longest_stall_ms = all[rank].longest_stall_ms;
        if (all[rank].median_ms > worst.median_ms)
            worst.median_ms = all[rank].median_ms;
    }
    printf("{\"rounds\":%llu,\"bad\":%llu,\"longest_stall_ms\":%.1f,\"median_ms\":%.1f,\"ranks\":[",
           (unsigned long long)worst.rounds + 1, (unsigned long long)worst.bad,
           worst.longest_stall_ms, worst.median_ms);
    for (int rank = 0; rank < ranks; rank++)
        printf("%s{\"rank\":%d,\"longest_stall_ms\":%.1f,\"median_ms\":%.1f}", rank ? "," : "",
               rank, all[rank].longest_stall_ms, all[rank].median_ms);
    printf("]}\n");
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 10;
    long length = argc > 2 ? atol(argv[2]) : 65536;
    struct summary mine, *all;
    unsigned char *message;
    int rank, ranks;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks < 2 || length < 1 || length > 1 << 28) {
        fprintf(stderr, "mpi-ring: needs at least 2 ranks and a payload of 1 byte to 256 MiB\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    make_crc_table();
    message = calloc(1, sizeof(struct token) + (size_t)length);
    all = calloc((size_t)ranks, sizeof(*all));
    if (!message || !all) {
        fprintf(stderr, "mpi-ring: out of memory\n");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    mine = turn(message, (size_t)length, seconds, rank, ranks);
    MPI_Gather(&mine, sizeof(mine), MPI_BYTE, all, sizeof(mine), MPI_BYTE, 0, MPI_COMM_WORLD);
    if (rank == 0)
        print_summaries(all, ranks);
    free(all);
    free(message);
    MPI_Finalize();
    return 0;
}
