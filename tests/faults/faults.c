/* Fails the n-th call that changes files below a folder, or kills the process there: a library for LD_PRELOAD.
 *
 * FAULTS_BELOW is the folder, as an absolute path without links; FAULTS_CONTROL a file that holds the struct below, which
 * the test writes and all processes of a run share. Calls: rename*, link*, mkdir, write, pwrite, writev, fsync,
 * fdatasync, and open* for writing. Writes that glibc makes by itself (stdio's) are not seen; Python, libstdc++ and
 * protobuf call write(2) by its name. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FULL, BROKEN };
enum { MOST_CALLS = 1 << 16 };
struct control { uint32_t kind, at, calls; char letters[MOST_CALLS]; }; /* of the calls, by their names */
static struct control *control;
static const char *below;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    below = getenv("FAULTS_BELOW");
    int file = path && below ? REAL(open)(path, O_RDWR) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(file);
}

static int is_below(const char *path) {
    size_t length = strlen(below);
    return !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

static int path_is_below(int folder, const char *path) {
    char start[4096], whole[8192], name[64];
    if (path[0] == '/') return is_below(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(start, sizeof start)) return 0;
    } else {
        snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(name, start, sizeof start - 1);
        if (length < 0) return 0;
        start[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", start, path);
    return is_below(whole);
}

static int file_is_below(int file) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Counts a call; returns 1, with errno set, if it is to fail. `letter`: the first of its name; 'f' of fopen is 'o', and
 * fsync and fdatasync are 's'. `grows`: the call needs room on the disk, which stays full from the n-th call on. */
static int fails(char letter, int grows) {
    uint32_t number = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    if (number <= MOST_CALLS) control->letters[number - 1] = letter;
    if (control->kind == COUNT || !control->at) return 0;
    if (control->kind == KILL && number >= control->at) kill(0, SIGKILL);
    if (control->kind == FULL && (number == control->at || (number > control->at && grows))) return errno = ENOSPC, 1;
    if (control->kind == BROKEN && number == control->at) return errno = EIO, 1;
    return 0;
}

#define FAIL_PATH(letter, folder, path, grows) \
    do { if (control && path_is_below(folder, path) && fails(letter, grows)) return -1; } while (0)
#define FAIL_FILE(letter, file, grows) \
    do { if (control && file_is_below(file) && fails(letter, grows)) return -1; } while (0)

int rename(const char *from, const char *to) {
    FAIL_PATH('r', AT_FDCWD, to, 0);
    return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    FAIL_PATH('r', b, to, 0);
    return REAL(renameat)(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    FAIL_PATH('r', b, to, 0);
    return REAL(renameat2)(a, from, b, to, flags);
}
int link(const char *from, const char *to) {
    FAIL_PATH('l', AT_FDCWD, to, 1);
    return REAL(link)(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    FAIL_PATH('l', b, to, 1);
    return REAL(linkat)(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) {
    FAIL_PATH('m', AT_FDCWD, path, 1);
    return REAL(mkdir)(path, mode);
}
ssize_t write(int file, const void *data, size_t size) {
    FAIL_FILE('w', file, 1);
    return REAL(write)(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    FAIL_FILE('w', file, 1);
    return REAL(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    FAIL_FILE('w', file, 1);
    return REAL(pwrite64)(file, data, size, at);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    FAIL_FILE('w', file, 1);
    return REAL(writev)(file, parts, count);
}
int fsync(int file) {
    FAIL_FILE('s', file, 0);
    return REAL(fsync)(file);
}
int fdatasync(int file) {
    FAIL_FILE('s', file, 0);
    return REAL(fdatasync)(file);
}

#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY)
#define MODE mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
    MODE
    if (WRITES(flags)) FAIL_PATH('o', AT_FDCWD, path, 1);
    return REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE
    if (WRITES(flags)) FAIL_PATH('o', AT_FDCWD, path, 1);
    return REAL(open64)(path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE
    if (WRITES(flags)) FAIL_PATH('o', folder, path, 1);
    return REAL(openat)(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE
    if (WRITES(flags)) FAIL_PATH('o', folder, path, 1);
    return REAL(openat64)(folder, path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
    if (strpbrk(mode, "wa+") && control && path_is_below(AT_FDCWD, path) && fails('o', 1)) return NULL;
    return REAL(fopen)(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    if (strpbrk(mode, "wa+") && control && path_is_below(AT_FDCWD, path) && fails('o', 1)) return NULL;
    return REAL(fopen64)(path, mode);
}
