/* A process that stays in state D: vfork's parent sleeps uninterruptibly until its child has ended
 * or executes another program. */
#include <unistd.h>

int main(void)
{
    if (vfork() == 0) {
        sleep(60);
        _exit(0);
    }
    return 0;
}
