/* A link between two network namespaces in userspace, for kernels without netem: delay, rate, losses and cuts of IP packets.

     link NAMESPACE DEVICE NAMESPACE DEVICE SEED

   makes a TUN device in each namespace and carries packets between them. Lines on standard input set the link, in both directions:

     set BITS_PER_SECOND SECONDS_OF_DELAY SHARE_LOST     (0 bits per second: no limit)
     cut                                                 (every packet is lost from now on)
     join

   Each line is answered by one of counters: packets carried, lost, and dropped because the queue was full. As on Ethernet, a packet
   of n bytes occupies the link for n + 38 bytes. Packets of 1500 bytes at 1 Gbit/s both ways are about what one core can carry. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 9216, SLOTS = 4096, ETHERNET = 38, QUEUE = 1538000 };

struct packet {
    double due;
    int size;
    unsigned char bytes[LARGEST];
};

struct way {
    struct packet *slots;
    unsigned first, count;
    double busy; /* until when the link sends what it has accepted */
};

static double rate, delay, loss;
static int is_cut;
static unsigned long carried, lost, dropped;
static uint64_t state;

static void fail(const char *what)
{
    fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + 1e-9 * at.tv_nsec;
}

static double uniform(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) * 0x1p-53;
}

static int device(const char *space, const char *name)
{
    char path[256];
    struct ifreq request = {0};
    snprintf(path, sizeof path, "/run/netns/%s", space);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET))
        fail(path);
    close(namespace);
    int made = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    if (made < 0 || ioctl(made, TUNSETIFF, &request))
        fail(name);
    return made;
}

/* Takes the packets that wait at a device. */
static void take(int from, struct way *way)
{
    for (;;) {
        struct packet *packet = &way->slots[(way->first + way->count) % SLOTS];
        int size = read(from, packet->bytes, LARGEST);
        if (size <= 0)
            return;
        double at = now(), start = way->busy > at ? way->busy : at;
        double sends = rate > 0 ? 8 * (size + ETHERNET) / rate : 0;
        /* A queue of so many bytes, as a switch has. */
        if (way->count + 1 >= SLOTS || (rate > 0 && start - at > 8.0 * QUEUE / rate)) {
            dropped++;
            continue;
        }
        way->busy = start + sends;
        if (is_cut || uniform() < loss) {
            lost++;
            continue;
        }
        packet->due = way->busy + delay;
        packet->size = size;
        way->count++;
    }
}

/* Delivers what is due; returns the seconds until the next one is, or 1. */
static double give(int to, struct way *way)
{
    while (way->count) {
        struct packet *packet = &way->slots[way->first];
        double left = packet->due - now();
        if (left > 0)
            return left;
        /* A device whose queue is full drops it, as it would be dropped elsewhere. */
        if (write(to, packet->bytes, packet->size) < 0)
            dropped++;
        else
            carried++;
        way->first = (way->first + 1) % SLOTS;
        way->count--;
    }
    return 1;
}

static void command(void)
{
    static char line[256];
    static size_t used;
    ssize_t got = read(0, line + used, sizeof line - 1 - used);
    if (got <= 0)
        exit(0);
    used += got;
    line[used] = 0;
    char *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        if (!strcmp(line, "cut"))
            is_cut = 1;
        else if (!strcmp(line, "join"))
            is_cut = 0;
        else if (sscanf(line, "set %lf %lf %lf", &rate, &delay, &loss) != 3) {
            fprintf(stderr, "link: unknown command: %s\n", line);
            exit(1);
        }
        printf("%lu %lu %lu\n", carried, lost, dropped);
        fflush(stdout);
        used -= end + 1 - line;
        memmove(line, end + 1, used + 1);
    }
}

int main(int count, char **words)
{
    if (count != 6) {
        fprintf(stderr, "link NAMESPACE DEVICE NAMESPACE DEVICE SEED\n");
        return 2;
    }
    int ends[2] = {device(words[1], words[2]), device(words[3], words[4])};
    state = 0x9e3779b97f4a7c15u ^ strtoull(words[5], NULL, 10);
    struct way ways[2] = {0};
    for (int i = 0; i < 2; i++)
        if (!(ways[i].slots = calloc(SLOTS, sizeof *ways[i].slots)))
            fail("memory");
    /* The ranks compute meanwhile, and a link does not wait for them. */
    struct sched_param first = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &first);
    puts("ready");
    fflush(stdout);
    for (;;) {
        double wait = 1;
        for (int i = 0; i < 2; i++) {
            take(ends[i], &ways[i]);
            double next = give(ends[1 - i], &ways[i]);
            wait = next < wait ? next : wait;
        }
        struct pollfd sources[3] = {{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}, {0, POLLIN, 0}};
        struct timespec pause = {(time_t)wait, (long)(1e9 * (wait - (time_t)wait))};
        /* A shorter sleep would last longer than it should. Commands are read nevertheless. */
        if (wait < 3e-5)
            pause = (struct timespec){0, 0};
        if (ppoll(sources, 3, &pause, NULL) < 0 && errno != EINTR)
            fail("ppoll");
        if (sources[2].revents)
            command();
    }
}
