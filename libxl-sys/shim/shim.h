/*
 * What only C can do for the bindings: read a va_list, and look into structures whose layout Rust
 * must not assume.
 *
 * The shim refers to no symbol of Xen's libraries, which are loaded at run time.
 */
#ifndef XLSHIM_H
#define XLSHIM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <libxl.h>

/*
 * Takes one formatted log line, without a newline, cut off at XLSHIM_LINE bytes. level is a
 * xentoollog_level; errnoval is -1 when there is none; context may be null. The pointers are valid
 * during the call.
 */
typedef void xlshim_message_fn(void *user, int level, int errnoval, const char *context,
                               const char *line);

/*
 * Takes the progress of the operation that what names, in that operation's own units. context may
 * be null. The pointers are valid during the call.
 */
typedef void xlshim_progress_fn(void *user, const char *context, const char *what, uint64_t done,
                                uint64_t total);

/*
 * Makes a logger that hands everything to the two callbacks, on whichever thread logs. In a process
 * forked from the one that made it, it calls neither, because threads that do not exist there may
 * hold the callbacks' locks; warnings and errors go to stderr instead. Returns null when memory is
 * short.
 */
xentoollog_logger *xlshim_logger_new(void *user, xlshim_message_fn *message,
                                     xlshim_progress_fn *progress);

/* Frees what xlshim_logger_new made. Nothing may log to it any more. Null is ignored. */
void xlshim_logger_free(xentoollog_logger *logger);

/* The callback of xlshim_fork, for each child process that libxl starts. */
typedef struct xlshim_fork_watch {
    pid_t owner; /* the process in which forked may be called */
    void (*forked)(void *user);
    void *user;
} xlshim_fork_watch;

/*
 * A libxl_childproc_hooks.fork_replacement whose user pointer is an xlshim_fork_watch. It forks,
 * and in the parent calls forked, unless the parent is itself a child of the owner (libxl has some
 * children fork again).
 */
pid_t xlshim_fork(void *watch);

/*
 * Whether event is the end of the operation that was started with how.u.for_event == for_user. If
 * it is, *rc is set to the operation's result.
 */
bool xlshim_event_is_end_of(const libxl_event *event, uint64_t for_user, int *rc);

/*
 * Whether event tells that the domain's guest has shut down. If it does, *reason is set to Xen's
 * code (xen/include/public/sched.h: SHUTDOWN_*).
 */
bool xlshim_event_is_shutdown(const libxl_event *event, uint32_t domid, int *reason);

/* Whether event tells that the domain is being destroyed, or gone. */
bool xlshim_event_is_death(const libxl_event *event, uint32_t domid);

/*
 * The disk whose medium the domain's guest has ejected, as it is to be inserted again: empty. Null
 * if event tells something else. It belongs to the event.
 */
libxl_device_disk *xlshim_event_ejected_disk(libxl_event *event, uint32_t domid);

/* The part of a configuration with name and uuid. It belongs to the configuration. */
libxl_domain_create_info *xlshim_create_info(libxl_domain_config *config);

#endif
