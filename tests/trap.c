/* A SIGSEGV handler as a collector has one: it asks mrm what the address is, and recovers. */
#define MRM_NO_PYTHON
#include <mrm/mrm.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

static sigjmp_buf recovery;
static volatile sig_atomic_t trapped;
static mrm_place place;

static void handler(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    mrm->classify(info->si_addr, &place);
    trapped = 1;
    siglongjmp(recovery, 1);
}

int trap_install(void *table) {
    struct sigaction action;
    mrm = table;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    return mrm->version != MRM_API_VERSION || sigaction(SIGSEGV, &action, NULL) || sigaction(SIGBUS, &action, NULL);
}

/* Read or write one byte; 1 if that trapped, and what mrm said in the handler. */
int trap_touch(char *address, int writing, mrm_place *told) {
    trapped = 0;
    memset(&place, 0xFF, sizeof place);
    if (!sigsetjmp(recovery, 1)) {
        if (writing)
            *(volatile char *)address = 1;
        else
            (void)*(volatile char *)address;
    }
    *told = place;
    return trapped;
}
