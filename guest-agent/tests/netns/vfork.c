/* A process that stays in state D: vfork's parent sleeps uninterruptibly until its child has made way. */
#include <unistd.h>

int main(void)
{
    if (vfork() == 0) {
        sleep(60);
        _exit(0);
    }
    return 0;
}
