#include "shim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* libxl's own lines are far shorter; a longer one (the dump of a configuration) may be cut off. */
#define XLSHIM_LINE 2048

struct logger {
    xentoollog_logger vtable; /* the first member: libxl hands back a pointer to it */
    pid_t owner;
    void *user;
    xlshim_message_fn *message;
    xlshim_progress_fn *progress;
};

static struct logger *logger_of(xentoollog_logger *vtable)
{
    return (struct logger *)vtable;
}

/*
 * Runs in a forked child, so all of it must be async-signal-safe. snprintf is not by the standard,
 * but it allocates nothing for this format.
 */
static void write_to_stderr(const char *context, const char *line)
{
    char out[XLSHIM_LINE + 64];
    const char *from = context ? context : "libxl";
    int len = snprintf(out, sizeof(out), "%s[%ld]: %s\n", from, (long)getpid(), line);
    if (len < 0)
        return;
    size_t size = (size_t)len < sizeof(out) ? (size_t)len : sizeof(out) - 1;
    ssize_t written = write(STDERR_FILENO, out, size);
    (void)written; /* a failure to write to stderr cannot be reported anywhere */
}

static void vmessage(xentoollog_logger *vtable, xentoollog_level level, int errnoval,
                     const char *context, const char *format, va_list args)
{
    struct logger *logger = logger_of(vtable);
    char line[XLSHIM_LINE];

    if (vsnprintf(line, sizeof(line), format, args) < 0)
        return;
    if (getpid() == logger->owner)
        logger->message(logger->user, (int)level, errnoval, context, line);
    else if (level >= XTL_WARN)
        write_to_stderr(context, line);
}

static void progress(xentoollog_logger *vtable, const char *context, const char *what, int percent,
                     unsigned long done, unsigned long total)
{
    struct logger *logger = logger_of(vtable);

    (void)percent;
    if (getpid() == logger->owner)
        logger->progress(logger->user, context, what, done, total);
}

/* Does nothing: libxl never destroys a logger that it was given. xlshim_logger_free frees it. */
static void destroy(xentoollog_logger *vtable)
{
    (void)vtable;
}

xentoollog_logger *xlshim_logger_new(void *user, xlshim_message_fn *message,
                                     xlshim_progress_fn *on_progress)
{
    struct logger *logger = calloc(1, sizeof(*logger));

    if (!logger)
        return NULL;
    logger->vtable.vmessage = vmessage;
    logger->vtable.progress = progress;
    logger->vtable.destroy = destroy;
    logger->owner = getpid();
    logger->user = user;
    logger->message = message;
    logger->progress = on_progress;
    return &logger->vtable;
}

void xlshim_logger_free(xentoollog_logger *logger)
{
    free(logger);
}

pid_t xlshim_fork(void *user)
{
    const xlshim_fork_watch *watch = user;
    pid_t pid = fork();
    int saved_errno = errno;

    if (pid > 0 && getpid() == watch->owner)
        watch->forked(watch->user);
    errno = saved_errno;
    return pid;
}

bool xlshim_event_is_end_of(const libxl_event *event, uint64_t for_user, int *rc)
{
    if (event->type != LIBXL_EVENT_TYPE_OPERATION_COMPLETE || event->for_user != for_user)
        return false;
    *rc = event->u.operation_complete.rc;
    return true;
}

bool xlshim_event_is_shutdown(const libxl_event *event, uint32_t domid, int *reason)
{
    if (event->type != LIBXL_EVENT_TYPE_DOMAIN_SHUTDOWN || event->domid != domid)
        return false;
    *reason = event->u.domain_shutdown.shutdown_reason;
    return true;
}

bool xlshim_event_is_death(const libxl_event *event, uint32_t domid)
{
    return event->type == LIBXL_EVENT_TYPE_DOMAIN_DEATH && event->domid == domid;
}

libxl_device_disk *xlshim_event_ejected_disk(libxl_event *event, uint32_t domid)
{
    if (event->type != LIBXL_EVENT_TYPE_DISK_EJECT || event->domid != domid)
        return NULL;
    return &event->u.disk_eject.disk;
}

libxl_domain_create_info *xlshim_create_info(libxl_domain_config *config)
{
    return &config->c_info;
}
