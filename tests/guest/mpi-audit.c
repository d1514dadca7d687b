/*
 * MPI traffic of many kinds in which every message can be told from every other.
 *
 *     mpi-audit SECONDS [SEED] [--until FILE] [--inject corrupt|drop|duplicate|reorder]
 *
 * 2 to 64 ranks repeat an iteration of five phases: a ring, an exchange in random pairs, an
 * all-to-all, an allreduce, and a flood of messages that nobody has asked for yet. Sizes lie on
 * both sides of the 64 KiB at which Open MPI goes from eager to rendezvous. All ranks draw them
 * from the same generator, so no rank needs to tell another.
 *
 * Every message carries its source, its destination, its number in the stream between the two, its
 * length, and the CRC-32 of all of it. The receiver counts what is corrupt, what comes twice, what
 * comes too late and what never comes; a flood ends with a message that says how many were sent.
 * --inject makes rank 0 do one of these things, in its first flood: a run that does not notice it
 * is worth nothing.
 *
 * It ends after so many seconds, or when rank 0 finds the file that --until names; in both cases
 * with all that is said below.
 *
 * Rank 0 prints a line of JSON a second, with its longest iteration and its longest silence since
 * the last, which began at silent_from_s by its clock (Unix time), and one at the end: sums over
 * all ranks, then each rank's own figures. A stall is the time of an iteration less the median; a
 * silence is the time between the ends of two operations of MPI, in which nothing has come to an
 * end. The exit status is 1 if anything was lost, duplicated, reordered or corrupt.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RANKS = 64, MAX_MESSAGE = 1 << 20, FLOOD = 24, MAX_MISSING = 1024 };

/* Tags, one for each stream between two ranks. */
enum stream { RING, PAIR, ALL_TO_ALL, FLOODED, STREAMS };

enum fault { NONE, CORRUPT, DROP, DUPLICATE, REORDER };

struct header {
    uint64_t sequence;
    uint32_t source;
    uint32_t destination;
    uint32_t length; /* of the whole message */
    uint32_t crc;    /* of the whole message, this being zero */
};

/* What a receiver knows of the stream from one source. */
struct incoming {
    uint64_t expected;
    uint64_t missing[MAX_MISSING];
    size_t missing_count;
};

struct counts {
    uint64_t sent, received, lost, duplicated, reordered, corrupt, iterations;
    double longest_stall_ms, median_ms, longest_silence_ms;
};

struct samples {
    double *ms;
    size_t count, room;
};

static struct {
    int rank, ranks;
    uint64_t random; /* the same on all ranks */
    enum fault inject;
    const char *until; /* a file that ends the job, or NULL */
    uint64_t next[STREAMS][MAX_RANKS];
    struct incoming incoming[STREAMS][MAX_RANKS];
    struct counts counts;
    double ended;       /* when an operation of MPI last has */
    double silence;     /* the longest since the last line of progress, in seconds */
    double silent_from; /* when it began, in seconds of Unix time */
    unsigned char *out, *in;
    size_t room; /* bytes in each of the two */
} self;

static const uint32_t sizes[] = { 32,    64,    256,   1024,   4096,   16384,  65472,
                                  65536, 65537, 65600, 131072, 262144, 524288, MAX_MESSAGE };

static uint32_t crc_table[8][256];

static void fail(const char *what)
{
    fprintf(stderr, "mpi-audit: rank %d: %s\n", self.rank, what);
    MPI_Abort(MPI_COMM_WORLD, 2);
}

static void make_crc_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
        crc_table[0][byte] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int byte = 0; byte < 256; byte++)
            crc_table[slice][byte] =
                (crc_table[slice - 1][byte] >> 8) ^ crc_table[0][crc_table[slice - 1][byte] & 0xff];
}

/* Eight bytes at a time: the check should not be what an iteration's time is spent on. */
static uint32_t crc32_of(const unsigned char *data, size_t length)
{
    uint32_t crc = 0xffffffffu;

    for (; length >= 8; length -= 8, data += 8) {
        crc ^= data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
        crc = crc_table[7][crc & 0xff] ^ crc_table[6][crc >> 8 & 0xff] ^
              crc_table[5][crc >> 16 & 0xff] ^ crc_table[4][crc >> 24] ^ crc_table[3][data[4]] ^
              crc_table[2][data[5]] ^ crc_table[1][data[6]] ^ crc_table[0][data[7]];
    }
    while (length--)
        crc = crc_table[0][(crc ^ *data++) & 0xff] ^ (crc >> 8);
    return ~crc;
}

/* splitmix64 */
static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The next choice below bound, the same on all ranks. */
static uint32_t draw(uint32_t bound)
{
    return (uint32_t)(mix(&self.random) % bound);
}

static uint32_t draw_size(uint32_t largest)
{
    uint32_t size;

    do
        size = sizes[draw(sizeof(sizes) / sizeof(*sizes))];
    while (size > largest);
    return size;
}

/* Makes the next message of a stream. Its content depends on its place in it. */
static void compose(unsigned char *message, enum stream stream, int destination, uint32_t length)
{
    struct header header = { self.next[stream][destination]++, (uint32_t)self.rank,
                             (uint32_t)destination, length, 0 };
    uint64_t content = header.sequence << 16 ^ (uint64_t)self.rank << 8 ^ (uint64_t)stream;
    size_t at = sizeof(header);

    for (; at + 8 <= length; at += 8) {
        uint64_t word = mix(&content);

        memcpy(message + at, &word, 8);
    }
    memset(message + at, (int)length, length - at);
    memcpy(message, &header, sizeof(header));
    header.crc = crc32_of(message, length);
    memcpy(message, &header, sizeof(header));
    self.counts.sent++;
}

/* All before this number should have come. */
static void expect(struct incoming *incoming, uint64_t sequence)
{
    for (; incoming->expected < sequence; incoming->expected++) {
        if (incoming->missing_count == MAX_MISSING)
            fail("too many messages are missing");
        incoming->missing[incoming->missing_count++] = incoming->expected;
    }
}

/* A number that is too high leaves a gap; one that is too low fills it, late, or has been there
 * before. */
static void account(struct incoming *incoming, uint64_t sequence)
{
    expect(incoming, sequence);
    if (incoming->expected == sequence) {
        incoming->expected++;
        return;
    }
    for (size_t n = 0; n < incoming->missing_count; n++) {
        if (incoming->missing[n] == sequence) {
            incoming->missing[n] = incoming->missing[--incoming->missing_count];
            self.counts.reordered++;
            return;
        }
    }
    self.counts.duplicated++;
}

static void check(unsigned char *message, size_t length, enum stream stream, int source)
{
    struct header header;
    uint32_t crc;

    self.counts.received++;
    memcpy(&header, message, sizeof(header));
    crc = header.crc;
    header.crc = 0;
    memcpy(message, &header, sizeof(header));
    /* A message with a wrong CRC cannot be asked for its number: it counts as the next, and as
     * corrupt. */
    if (crc != crc32_of(message, length) || header.length != length) {
        self.counts.corrupt++;
        account(&self.incoming[stream][source], self.incoming[stream][source].expected);
    } else if (header.source != (uint32_t)source || header.destination != (uint32_t)self.rank) {
        self.counts.corrupt++;
    } else {
        account(&self.incoming[stream][source], header.sequence);
    }
}

static double unix_time(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* An operation of MPI has come to its end. */
static void heard(void)
{
    double now = MPI_Wtime();

    if (now - self.ended > self.silence) {
        self.silence = now - self.ended;
        self.silent_from = unix_time() - self.silence;
    }
    if (self.silence * 1000 > self.counts.longest_silence_ms)
        self.counts.longest_silence_ms = self.silence * 1000;
    self.ended = now;
}

static void receive(enum stream stream, int source, uint32_t room)
{
    MPI_Status status;
    int length;

    MPI_Recv(self.in, (int)room, MPI_BYTE, source, stream, MPI_COMM_WORLD, &status);
    heard();
    MPI_Get_count(&status, MPI_BYTE, &length);
    check(self.in, (size_t)length, stream, source);
}

static void ring(void)
{
    int right = (self.rank + 1) % self.ranks, left = (self.rank + self.ranks - 1) % self.ranks;
    uint32_t size = draw_size(MAX_MESSAGE);
    MPI_Request request;

    compose(self.out, RING, right, size);
    MPI_Isend(self.out, (int)size, MPI_BYTE, right, RING, MPI_COMM_WORLD, &request);
    receive(RING, left, size);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    heard();
}

/* A random order of the ranks, in which neighbours are partners; with an odd number of ranks the
 * last has none. */
static int draw_partner(void)
{
    int order[MAX_RANKS], partner = -1;

    for (int n = 0; n < self.ranks; n++)
        order[n] = n;
    for (int n = self.ranks - 1; n > 0; n--) {
        int other = (int)draw((uint32_t)n + 1), swap = order[n];

        order[n] = order[other];
        order[other] = swap;
    }
    for (int n = 0; n + 1 < self.ranks; n += 2) {
        if (order[n] == self.rank)
            partner = order[n + 1];
        if (order[n + 1] == self.rank)
            partner = order[n];
    }
    return partner;
}

static void pairs(void)
{
    int partner = draw_partner();
    uint32_t size = draw_size(MAX_MESSAGE);
    MPI_Status status;
    int length;

    if (partner < 0)
        return;
    compose(self.out, PAIR, partner, size);
    MPI_Sendrecv(self.out, (int)size, MPI_BYTE, partner, PAIR, self.in, (int)size, MPI_BYTE,
                 partner, PAIR, MPI_COMM_WORLD, &status);
    heard();
    MPI_Get_count(&status, MPI_BYTE, &length);
    check(self.in, (size_t)length, PAIR, partner);
}

static void all_to_all(void)
{
    uint32_t size = draw_size((uint32_t)(self.room / (size_t)self.ranks));

    for (int rank = 0; rank < self.ranks; rank++)
        compose(self.out + (size_t)rank * size, ALL_TO_ALL, rank, size);
    MPI_Alltoall(self.out, (int)size, MPI_BYTE, self.in, (int)size, MPI_BYTE, MPI_COMM_WORLD);
    heard();
    for (int rank = 0; rank < self.ranks; rank++)
        check(self.in + (size_t)rank * size, size, ALL_TO_ALL, rank);
}

/* Rank r gives base + r, so the sum is known to all. */
static void allreduce(void)
{
    uint32_t count = draw_size(MAX_MESSAGE / 2) / sizeof(uint64_t);
    uint64_t *mine = (uint64_t *)self.out, *sum = (uint64_t *)self.in, base = mix(&self.random);
    uint64_t ranks = (uint64_t)self.ranks, wrong = 0;

    for (uint32_t n = 0; n < count; n++)
        mine[n] = (base ^ n) + (uint64_t)self.rank;
    self.counts.sent++;
    MPI_Allreduce(mine, sum, (int)count, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    heard();
    for (uint32_t n = 0; n < count; n++)
        wrong += sum[n] != ranks * (base ^ n) + ranks * (ranks - 1) / 2;
    self.counts.received++;
    self.counts.corrupt += wrong > 0;
}

static void exchange(unsigned char *one, unsigned char *other, size_t length)
{
    unsigned char held[64];

    memcpy(held, one, length);
    memcpy(one, other, length);
    memcpy(other, held, length);
}

/* Does one wrong thing to the messages of a flood that are about to be sent; returns how many there
   are then. What comes twice comes in the place of another, which is lost. */
static int spoil(unsigned char *messages, uint32_t size, int count)
{
    unsigned char *third = messages + 2 * size, *fourth = third + size;

    switch (self.inject) {
    case CORRUPT:
        third[sizeof(struct header)] ^= 0x10;
        break;
    case DROP:
        memmove(third, fourth, (size_t)(count - 3) * size);
        count--;
        break;
    case DUPLICATE:
        memcpy(fourth, third, size);
        break;
    case REORDER:
        exchange(third, fourth, size);
        break;
    case NONE:
        break;
    }
    self.inject = NONE;
    return count;
}

/* What has not come when the end says how many there were is lost, unless a later flood brings it.
 */
static void receive_flood(int left, uint32_t size)
{
    uint64_t total;

    for (;;) {
        MPI_Status status;
        int length;

        MPI_Recv(self.in, (int)size, MPI_BYTE, left, FLOODED, MPI_COMM_WORLD, &status);
        heard();
        MPI_Get_count(&status, MPI_BYTE, &length);
        if (length == sizeof(total))
            break;
        check(self.in, (size_t)length, FLOODED, left);
    }
    memcpy(&total, self.in, sizeof(total));
    expect(&self.incoming[FLOODED][left], total);
}

/* All send before anyone receives: the messages wait in the unexpected queue, in sockets, or at the
 * sender. */
static void flood(void)
{
    int right = (self.rank + 1) % self.ranks, left = (self.rank + self.ranks - 1) % self.ranks,
        count = FLOOD;
    static const uint32_t flood_sizes[] = { 32, 56, 64 };
    uint32_t size = flood_sizes[draw(3)];
    MPI_Request requests[FLOOD + 1];
    uint64_t total;

    for (int n = 0; n < FLOOD; n++)
        compose(self.out + (size_t)n * size, FLOODED, right, size);
    total = self.next[FLOODED][right];
    if (self.rank == 0)
        count = spoil(self.out, size, FLOOD);
    for (int n = 0; n < count; n++)
        MPI_Isend(self.out + (size_t)n * size, (int)size, MPI_BYTE, right, FLOODED, MPI_COMM_WORLD,
                  &requests[n]);
    MPI_Isend(&total, sizeof(total), MPI_BYTE, right, FLOODED, MPI_COMM_WORLD, &requests[count]);
    MPI_Barrier(MPI_COMM_WORLD);
    heard();
    receive_flood(left, size);
    for (int n = 0; n <= count; n++)
        MPI_Wait(&requests[n], MPI_STATUS_IGNORE);
    heard();
}

static void add_sample(struct samples *samples, double ms)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 1024;
        samples->ms = realloc(samples->ms, samples->room * sizeof(*samples->ms));
        if (!samples->ms)
            fail("out of memory");
    }
    samples->ms[samples->count++] = ms;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

static uint64_t bad(const struct counts *counts)
{
    return counts->lost + counts->duplicated + counts->reordered + counts->corrupt;
}

static void print_progress(double start, double now, double iteration)
{
    static double last, longest;

    if (iteration > longest)
        longest = iteration;
    if (now - last < 1.0)
        return;
    last = now;
    printf("{\"progress\":%llu,\"elapsed_ms\":%.0f,\"longest_ms\":%.0f,\"silence_ms\":%.0f,"
           "\"silent_from_s\":%.1f,\"bad\":%llu}\n",
           (unsigned long long)self.counts.iterations, (now - start) * 1000, longest * 1000,
           self.silence * 1000, self.silent_from, (unsigned long long)bad(&self.counts));
    fflush(stdout);
    longest = self.silence = 0;
}

static int is_over(double start, double seconds)
{
    return MPI_Wtime() - start >= seconds || (self.until && access(self.until, F_OK) == 0);
}

/* Whether to go on is rank 0's to say, or one rank would leave while another waits for it. */
static int go_on(double start, double seconds)
{
    int go = self.rank != 0 || !is_over(start, seconds);

    MPI_Bcast(&go, 1, MPI_INT, 0, MPI_COMM_WORLD);
    heard();
    return go;
}

static void summarize(struct samples *samples)
{
    struct counts *counts = &self.counts;

    qsort(samples->ms, samples->count, sizeof(*samples->ms), compare);
    if (samples->count) {
        counts->median_ms = samples->ms[samples->count / 2];
        counts->longest_stall_ms = samples->ms[samples->count - 1] - counts->median_ms;
    }
    for (int stream = 0; stream < STREAMS; stream++)
        for (int rank = 0; rank < self.ranks; rank++)
            counts->lost += self.incoming[stream][rank].missing_count;
}

static void iterate(double seconds)
{
    double start = self.ended = MPI_Wtime(), last = start;
    struct samples samples = { 0 };

    while (go_on(start, seconds)) {
        double now;

        ring();
        pairs();
        all_to_all();
        allreduce();
        flood();
        now = MPI_Wtime();
        /* The first iteration opens the connections. */
        if (self.counts.iterations++ > 0)
            add_sample(&samples, (now - last) * 1000);
        else
            self.counts.longest_silence_ms = self.silence = 0;
        if (self.rank == 0)
            print_progress(start, now, now - last);
        last = now;
    }
    summarize(&samples);
    free(samples.ms);
}

static void print_counts(const struct counts *counts)
{
    printf("\"sent\":%llu,\"received\":%llu,\"lost\":%llu,\"duplicated\":%llu,\"reordered\":%llu,"
           "\"corrupt\":%llu,"
           "\"iterations\":%llu,\"longest_stall_ms\":%.1f,\"median_ms\":%.1f,\"longest_silence_"
           "ms\":%.1f",
           (unsigned long long)counts->sent, (unsigned long long)counts->received,
           (unsigned long long)counts->lost, (unsigned long long)counts->duplicated,
           (unsigned long long)counts->reordered, (unsigned long long)counts->corrupt,
           (unsigned long long)counts->iterations, counts->longest_stall_ms, counts->median_ms,
           counts->longest_silence_ms);
}

static struct counts sum_of(const struct counts *all)
{
    struct counts sum = all[0];

    for (int rank = 1; rank < self.ranks; rank++) {
        sum.sent += all[rank].sent;
        sum.received += all[rank].received;
        sum.lost += all[rank].lost;
        sum.duplicated += all[rank].duplicated;
        sum.reordered += all[rank].reordered;
        sum.corrupt += all[rank].corrupt;
        if (all[rank].longest_stall_ms > sum.longest_stall_ms)
            sum.longest_stall_ms = all[rank].longest_stall_ms;
        if (all[rank].median_ms > sum.median_ms)
            sum.median_ms = all[rank].median_ms;
        if (all[rank].longest_silence_ms > sum.longest_silence_ms)
            sum.longest_silence_ms = all[rank].longest_silence_ms;
    }
    return sum;
}

/* One write for the whole line, which another process's may otherwise cut in two. Returns whether
 * all was well. */
static int report(void)
{
    struct counts all[MAX_RANKS], sum;
    static char line[64 * 1024];

    MPI_Gather(&self.counts, sizeof(self.counts), MPI_BYTE, all, sizeof(self.counts), MPI_BYTE, 0,
               MPI_COMM_WORLD);
    sum = self.counts;
    if (self.rank == 0) {
        sum = sum_of(all);
        setvbuf(stdout, line, _IOFBF, sizeof(line));
        printf("{");
        print_counts(&sum);
        printf(",\"ranks\":[");
        for (int rank = 0; rank < self.ranks; rank++) {
            printf("%s{\"rank\":%d,", rank ? "," : "", rank);
            print_counts(&all[rank]);
            printf("}");
        }
        printf("]}\n");
        fflush(stdout);
    }
    MPI_Bcast(&sum, sizeof(sum), MPI_BYTE, 0, MPI_COMM_WORLD);
    return bad(&sum) == 0;
}

static enum fault fault_of(const char *name)
{
    static const char *const names[] = { "none", "corrupt", "drop", "duplicate", "reorder" };

    for (int fault = CORRUPT; fault <= REORDER; fault++)
        if (name && strcmp(name, names[fault]) == 0)
            return (enum fault)fault;
    fail("--inject takes corrupt, drop, duplicate or reorder");
    return NONE;
}

static const char *file_of(const char *name)
{
    if (!name)
        fail("--until takes a file");
    return name;
}

int main(int argc, char **argv)
{
    double seconds = 0;
    int numbers = 0, good;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &self.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &self.ranks);
    self.random = 1;
    for (int n = 1; n < argc; n++) {
        if (strcmp(argv[n], "--inject") == 0)
            self.inject = fault_of(argv[++n]);
        else if (strcmp(argv[n], "--until") == 0)
            self.until = file_of(argv[++n]);
        else if (numbers++ == 0)
            seconds = atof(argv[n]);
        else
            self.random = strtoull(argv[n], NULL, 0);
    }
    if (seconds <= 0 || numbers > 2 || self.ranks < 2 || self.ranks > MAX_RANKS)
        fail("usage: mpi-audit SECONDS [SEED] [--until FILE] [--inject FAULT], on 2 to 64 ranks");
    make_crc_tables();
    self.room = 2 * MAX_MESSAGE;
    self.out = malloc(self.room);
    self.in = malloc(self.room);
    if (!self.out || !self.in)
        fail("out of memory");
    iterate(seconds);
    good = report();
    free(self.out);
    free(self.in);
    MPI_Finalize();
    return good ? 0 : 1;
}
