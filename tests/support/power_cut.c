/* What a power cut leaves of a directory: only what was synced.

   Preloaded into the server.  At each fsync or fdatasync of a file below POWER_CUT_DIRECTORY, its content
   of that moment goes to POWER_CUT_IMAGE/<inode>; at each fsync of the directory itself or of one below it, its
   list of names goes to POWER_CUT_IMAGE/names, or names-<inode>.  All by rename, so that a process which is killed
   in the middle leaves the one before.  The survivors of a cut are the names in the lists, each with the content
   of its inode; so a rename that was not synced is lost.

   Stricter than most file systems: a new file whose directory was not synced is lost, whatever was synced of
   its content (ext4 would keep it).  In place of the real fsync, a wait of POWER_CUT_SYNC_MICROSECONDS, so that
   a process which is killed at random is mostly killed in the middle of one. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what) {
    perror(what);
    abort(); /* a test must not go on with an image that is wrong */
}

enum place { ELSEWHERE, TOP, FILE_BELOW, DIRECTORY_BELOW };

/* What the file behind `fd` is, and its path, if it is the directory or below it. */
static enum place place_of(int fd, char path[4096], struct stat *status) {
    const char *directory = getenv("POWER_CUT_DIRECTORY");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    if (directory == NULL || length < 0 || fstat(fd, status) != 0)
        return ELSEWHERE;
    path[length] = '\0';
    size_t prefix = strlen(directory);
    if (strncmp(path, directory, prefix) != 0)
        return ELSEWHERE;
    if (path[prefix] == '\0')
        return TOP;
    if (path[prefix] != '/')
        return ELSEWHERE;
    return S_ISDIR(status->st_mode) ? DIRECTORY_BELOW : FILE_BELOW;
}

static void image_path(char out[4096], const char *name) {
    snprintf(out, 4096, "%s/%s", getenv("POWER_CUT_IMAGE"), name);
}

static void replace(const char *name) {
    char from[4096], to[4096];
    image_path(from, "new");
    image_path(to, name);
    if (rename(from, to) != 0)
        die("power_cut: rename");
}

static int open_new(void) {
    char path[4096];
    image_path(path, "new");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        die("power_cut: open");
    return fd;
}

/* Through the descriptor that is synced: opening the file once more, and closing it, would drop the
   process's locks on it. */
static void keep_content(int fd, const struct stat *status) {
    int copy = open_new();
    for (off_t done = 0; done < status->st_size;)
        if (sendfile(copy, fd, &done, status->st_size - done) <= 0)
            die("power_cut: sendfile");
    close(copy);
    char name[32];
    snprintf(name, sizeof name, "%llu", (unsigned long long)status->st_ino);
    replace(name);
}

static void keep_names(const char *path, const char *list) {
    DIR *directory = opendir(path);
    FILE *names = fdopen(open_new(), "w");
    if (directory == NULL || names == NULL)
        die("power_cut: names");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_type == DT_REG || (entry->d_type == DT_DIR && entry->d_name[0] != '.'))
            fprintf(names, "%c %llu %s\n", entry->d_type == DT_DIR ? 'd' : 'f', (unsigned long long)entry->d_ino,
                    entry->d_name);
    if (fclose(names) != 0)
        die("power_cut: names");
    closedir(directory);
    replace(list);
}

static int synced(const char *real, int fd) {
    char path[4096], list[64] = "names";
    struct stat status;
    enum place place = place_of(fd, path, &status);
    if (place == ELSEWHERE)
        return ((int (*)(int))dlsym(RTLD_NEXT, real))(fd);
    const char *wait = getenv("POWER_CUT_SYNC_MICROSECONDS");
    usleep(wait == NULL ? 0 : atoi(wait));
    pthread_mutex_lock(&one_at_a_time);
    if (place == DIRECTORY_BELOW)
        snprintf(list, sizeof list, "names-%llu", (unsigned long long)status.st_ino);
    if (place == FILE_BELOW)
        keep_content(fd, &status);
    else
        keep_names(path, list);
    pthread_mutex_unlock(&one_at_a_time);
    return 0;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
