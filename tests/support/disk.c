/*
 * Preloaded into a program, writes into a journal what the program does to the files below one folder: every change in the order in
 * which it was made, and what was synchronised. From the journal, power.rs makes the folder as a power cut could have left it.
 *
 * LETHE_DISK_ROOT     the folder
 * LETHE_DISK_JOURNAL  the journal, outside the folder; appended to
 * LETHE_DISK_KILL     "KIND N TEXT": dies by SIGKILL right after the N-th change of this kind to a path that holds TEXT
 *
 * The rules: a change is in the journal once it is visible, and before the caller knows of it; a synchronisation covers what was in the
 * journal when it began. Changes to the folder's names happen one at a time. Memory maps are not seen: SQLite maps only its -shm file,
 * which it rebuilds. Only what Lethe uses is here; a test compares the journal's sum with the real folder.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, MKDIR, LINK, UNLINK, RENAME, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END };

struct head {
    uint32_t kind, path_len, other_len, data_len;
    uint64_t inode, offset, thread;
};

static const char *root;
static size_t root_len;
static int journal = -1;
static int kill_kind, kill_after;
static char kill_text[256];
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER, dying = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *to = getenv("LETHE_DISK_JOURNAL"), *when = getenv("LETHE_DISK_KILL");
    root = getenv("LETHE_DISK_ROOT");
    if (!root || !to) return;
    root_len = strlen(root);
    journal = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (journal < 0) abort();
    if (when && sscanf(when, "%d %d %255s", &kill_kind, &kill_after, kill_text) != 3) abort();
}

static int below_root(const char *path) {
    return journal >= 0 && !strncmp(path, root, root_len) && (path[root_len] == '/' || !path[root_len]);
}

/* The absolute path of `path` as seen from `folder`. */
static int absolute(int folder, const char *path, char *out) {
    char base[PATH_MAX] = "", link[64];
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0) return 0;
            base[length] = 0;
        }
    }
    return snprintf(out, PATH_MAX, path[0] == '/' ? "%s%s" : "%s/%s", base, path) < PATH_MAX && below_root(out);
}

/* The path and inode of an open file or folder of the root. */
static int known(int fd, char *path, uint64_t *inode) {
    if (journal < 0 || fd == journal) return 0;
    struct stat found;
    char link[64];
    if (fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    *inode = found.st_ino;
    return below_root(path);
}

static void note(int kind, const char *path, const char *other, uint64_t inode, uint64_t offset, const void *data, size_t length) {
    int before = errno;
    struct head head = {kind, strlen(path), other ? strlen(other) : 0, length, inode, offset, syscall(SYS_gettid)};
    struct iovec parts[] = {
        {&head, sizeof head}, {(void *)path, head.path_len}, {(void *)other, head.other_len}, {(void *)data, length}};
    /* One write, so that records of threads and processes do not mix. */
    size_t size = sizeof head + head.path_len + head.other_len + length;
    if (syscall(SYS_writev, journal, parts, 4) != (long)size) abort();
    if (kind == kill_kind && strstr(path, kill_text)) {
        pthread_mutex_lock(&dying);
        if (--kill_after == 0) kill(getpid(), SIGKILL);
        pthread_mutex_unlock(&dying);
    }
    errno = before;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !absolute(folder, path, full)) return syscall(SYS_openat, folder, path, flags, mode);
    struct stat found;
    pthread_mutex_lock(&names);
    int there = !fstatat(AT_FDCWD, full, &found, 0);
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    int error = errno;
    if (fd >= 0 && !fstat(fd, &found)) {
        if (!there) note(CREATE, full, NULL, found.st_ino, 0, NULL, 0);
        else if (flags & O_TRUNC) note(TRUNCATE, full, NULL, found.st_ino, 0, NULL, 0);
    }
    pthread_mutex_unlock(&names);
    errno = error;
    return fd;
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

#define OPEN(name)                                              \
    int name(const char *path, int flags, ...) {                \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = mode_of(flags, rest);                     \
        va_end(rest);                                           \
        return opened(AT_FDCWD, path, flags, mode);             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int folder, const char *path, int flags, ...) {    \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = mode_of(flags, rest);                     \
        va_end(rest);                                           \
        return opened(folder, path, flags, mode);               \
    }
OPENAT(openat)
OPENAT(openat64)

/* Notes a write that ended at `end`, or at the file's own position. */
static ssize_t wrote(int fd, const void *data, ssize_t length, off_t end) {
    char path[PATH_MAX];
    uint64_t inode;
    int error = errno;
    if (length > 0 && known(fd, path, &inode)) {
        if (end < 0) end = syscall(SYS_lseek, fd, 0, SEEK_CUR);
        note(WRITE, path, NULL, inode, end - length, data, length);
    }
    errno = error;
    return length;
}

ssize_t write(int fd, const void *data, size_t length) { return wrote(fd, data, syscall(SYS_write, fd, data, length), -1); }

#define PWRITE(name)                                                                                   \
    ssize_t name(int fd, const void *data, size_t length, off_t offset) {                              \
        ssize_t done = syscall(SYS_pwrite64, fd, data, length, offset);                                \
        return wrote(fd, data, done, offset + done);                                                   \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

/* One part at a time, which a caller of writev must be ready for. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    uint64_t inode;
    if (!known(fd, path, &inode)) return syscall(SYS_writev, fd, parts, count);
    for (int part = 0; part < count; part++)
        if (parts[part].iov_len) return write(fd, parts[part].iov_base, parts[part].iov_len);
    return 0;
}

#define FTRUNCATE(name)                                                                                \
    int name(int fd, off_t size) {                                                                     \
        char path[PATH_MAX];                                                                           \
        uint64_t inode;                                                                                \
        int done = syscall(SYS_ftruncate, fd, size);                                                   \
        if (!done && known(fd, path, &inode)) note(TRUNCATE, path, NULL, inode, size, NULL, 0);        \
        return done;                                                                                   \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

static int synchronised(int fd, long call) {
    char path[PATH_MAX];
    uint64_t inode;
    int ours = known(fd, path, &inode);
    if (ours) note(SYNC_BEGIN, path, NULL, inode, 0, NULL, 0);
    int done = syscall(call, fd);
    if (ours && !done) note(SYNC_END, path, NULL, inode, 0, NULL, 0);
    return done;
}

int fsync(int fd) { return synchronised(fd, SYS_fsync); }
int fdatasync(int fd) { return synchronised(fd, SYS_fdatasync); }

/* Makes and notes a change of names; `file` is asked for the inode where one is needed. */
#define CHANGE(call, kind, path, other, file)                                                          \
    do {                                                                                               \
        struct stat found = {0};                                                                       \
        pthread_mutex_lock(&names);                                                                    \
        long done = (call);                                                                            \
        if (!done) {                                                                                   \
            const char *asked = (file);                                                                \
            if (asked) fstatat(AT_FDCWD, asked, &found, AT_SYMLINK_NOFOLLOW);                          \
            note(kind, path, other, found.st_ino, 0, NULL, 0);                                         \
        }                                                                                              \
        pthread_mutex_unlock(&names);                                                                  \
        return done;                                                                                   \
    } while (0)

int mkdirat(int folder, const char *path, mode_t mode) {
    char full[PATH_MAX];
    if (!absolute(folder, path, full)) return syscall(SYS_mkdirat, folder, path, mode);
    CHANGE(syscall(SYS_mkdirat, folder, path, mode), MKDIR, full, NULL, full);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int folder, const char *path, int flags) {
    char full[PATH_MAX];
    if (!absolute(folder, path, full)) return syscall(SYS_unlinkat, folder, path, flags);
    CHANGE(syscall(SYS_unlinkat, folder, path, flags), UNLINK, full, NULL, NULL);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    char full[PATH_MAX];
    if (!absolute(to_folder, to, full)) return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    CHANGE(syscall(SYS_linkat, from_folder, from, to_folder, to, flags), LINK, full, NULL, full);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char source[PATH_MAX], target[PATH_MAX];
    if (!absolute(from_folder, from, source) || !absolute(to_folder, to, target))
        return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    CHANGE(syscall(SYS_renameat2, from_folder, from, to_folder, to, flags), RENAME, source, target, NULL);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

/* Whoever copies in the kernel is told to do it by reading and writing. */
ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset, size_t length, unsigned flags) {
    (void)from, (void)from_offset, (void)to, (void)to_offset, (void)length, (void)flags;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length) {
    (void)to, (void)from, (void)offset, (void)length;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t length) __attribute__((alias("sendfile")));
