/* Stops the process that has just written a state into its record: preloaded, with STOP_AFTER=STATE
 * in its environment. The disk holds the state, and nothing has followed from it.
 *
 * It happens once on a host: STOP_MARKER names the file that tells of it, with the process's id. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Records have some tens of KiB; the states stand at the end. */
#define LONGEST (1 << 20)

static char state[64], marker[256];

/* The children, ssh and the guard, are not to be stopped. */
__attribute__((constructor)) static void begin(void)
{
    const char *after = getenv("STOP_AFTER"), *file = getenv("STOP_MARKER");
    if (after && file) {
        snprintf(state, sizeof state, "\"state\":\"%s\"", after);
        snprintf(marker, sizeof marker, "%s", file);
    }
    unsetenv("STOP_AFTER");
    unsetenv("LD_PRELOAD");
}

static int ends_in_state(int fd)
{
    static char text[LONGEST];
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    char *last = NULL, *at = text;
    if (length <= 0)
        return 0;
    text[length] = '\0';
    while ((at = strstr(at, "\"state\":")))
        last = at++;
    return last && !strncmp(last, state, strlen(state));
}

int fdatasync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int done = real(fd);
    if (done == 0 && *state && access(marker, F_OK) && ends_in_state(fd)) {
        FILE *file = fopen(marker, "w");
        if (file) {
            fprintf(file, "%d\n", getpid());
            fflush(file);
            fsync(fileno(file));
            fclose(file);
        }
        raise(SIGSTOP);
    }
    return done;
}
