/* What each sanitizer is there to find, done on purpose: run.py wants it reported. */
#include <pthread.h>
#include <stdlib.h>

static int shared;

void canary_address(void) {
    volatile char *volatile bytes = malloc(8);
    bytes[8] = 1; /* one beyond the end */
}

int canary_undefined(void) {
    volatile int most = 0x7fffffff;
    return most + 1;
}

void *volatile canary_kept;
void canary_leak(void) {
    canary_kept = malloc(1000);
    canary_kept = NULL;
}

static void *add(void *argument) {
    for (int i = 0; i < 1000; i++) shared++;
    return argument;
}

int canary_thread(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, add, NULL)) abort();
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return shared;
}
