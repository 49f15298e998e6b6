/* The functions of NCCL that ranks use, for ranks that are threads of one process and "cards" whose memory is the host's: messages
   are copied through queues. A receive that waits 30 s fails as if its sender had ended. If MOCK_NCCL_LOG names a file, every rank that
   joins appends a line to it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    char bytes[128];
} ncclUniqueId;

struct message {
    struct message *next;
    size_t size;
    char bytes[];
};

struct group {
    struct group *next;
    ncclUniqueId id;
    int size, joined;
    struct message **queues; /* of each pair: from · size + to */
};

struct rank {
    struct group *group;
    int number;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct group *groups;
static int made;

enum { SUCCESS, SYSTEM = 2, INVALID = 4, REMOTE = 6, F32 = 7 };

int ncclGetVersion(int *version)
{
    *version = 22105;
    return SUCCESS;
}

int ncclGetUniqueId(ncclUniqueId *id)
{
    pthread_mutex_lock(&lock);
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "mock %d", ++made);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

static int wait_until(struct timespec *until)
{
    return pthread_cond_timedwait(&changed, &lock, until);
}

static struct timespec in_time(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    return until;
}

int ncclCommInitRank(struct rank **made_rank, int size, ncclUniqueId id, int number)
{
    struct timespec until = in_time();
    int status = SUCCESS;
    pthread_mutex_lock(&lock);
    struct group *group = groups;
    while (group && memcmp(&group->id, &id, sizeof id))
        group = group->next;
    if (!group) {
        group = calloc(1, sizeof *group);
        group->next = groups;
        group->id = id;
        group->size = size;
        group->queues = calloc((size_t)size * size, sizeof *group->queues);
        groups = group;
    }
    if (group->size != size || number < 0 || number >= size) {
        pthread_mutex_unlock(&lock);
        return INVALID;
    }
    group->joined++;
    pthread_cond_broadcast(&changed);
    while (group->joined < size && status == SUCCESS)
        if (wait_until(&until))
            status = REMOTE;
    *made_rank = malloc(sizeof **made_rank);
    **made_rank = (struct rank){group, number};
    const char *log = getenv("MOCK_NCCL_LOG");
    FILE *file = log ? fopen(log, "a") : NULL;
    if (file) {
        fprintf(file, "rank %d of %d\n", number, size);
        fclose(file);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

int ncclSend(const void *bytes, size_t count, int type, int to, struct rank *rank, void *stream)
{
    (void)stream;
    if (type != F32 || to < 0 || to >= rank->group->size || to == rank->number)
        return INVALID;
    struct message *message = malloc(sizeof *message + 4 * count);
    message->next = NULL;
    message->size = 4 * count;
    memcpy(message->bytes, bytes, message->size);
    pthread_mutex_lock(&lock);
    struct message **end = &rank->group->queues[rank->number * rank->group->size + to];
    while (*end)
        end = &(*end)->next;
    *end = message;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int ncclRecv(void *bytes, size_t count, int type, int from, struct rank *rank, void *stream)
{
    (void)stream;
    if (type != F32 || from < 0 || from >= rank->group->size || from == rank->number)
        return INVALID;
    struct timespec until = in_time();
    int status = SUCCESS;
    pthread_mutex_lock(&lock);
    struct message **queue = &rank->group->queues[from * rank->group->size + rank->number];
    while (!*queue && status == SUCCESS)
        if (wait_until(&until))
            status = REMOTE;
    struct message *message = *queue;
    if (message) {
        *queue = message->next;
        /* NCCL leaves it undefined; here it shows. */
        status = message->size == 4 * count ? SUCCESS : SYSTEM;
        if (status == SUCCESS)
            memcpy(bytes, message->bytes, message->size);
        free(message);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, struct rank *rank, void *stream)
{
    if (rank->number != root)
        return ncclRecv(to, count, type, root, rank, stream);
    int status = SUCCESS;
    for (int other = 0; other < rank->group->size && status == SUCCESS; other++)
        if (other != root)
            status = ncclSend(from, count, type, other, rank, stream);
    if (to != from)
        memmove(to, from, 4 * count);
    return status;
}

int ncclCommDestroy(struct rank *rank)
{
    free(rank);
    return SUCCESS;
}
