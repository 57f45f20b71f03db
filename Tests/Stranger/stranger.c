// The other side of udmabridge's descriptors: programs that know nothing of it. See usage() below.
// Every failure ends the program with status 1.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xf86drm.h>

#include <linux/dma-buf.h>
#include <linux/udmabuf.h>

static void fail(const char *what) {
    fprintf(stderr, "stranger: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void usage(void) {
    fputs("usage: stranger COMMAND\n"
          "  import FD CARD          import a dma-buf, export it again, print `imported INODE SIZE`, copy it to\n"
          "                          standard output\n"
          "  receive SOCKET CARD     the same with the descriptor that comes on a socket; print the message first\n"
          "  hold COUNT              make that many udmabufs of 1, 2, ... pages, print the inodes, and hold them in a\n"
          "                          child as well until standard input ends; every second one is mapped in the child,\n"
          "                          and its descriptor closed there\n", stderr);
    exit(2);
}

static uint64_t inode(int fd) {
    struct stat status;
    if (fstat(fd, &status)) fail("fstat");
    return status.st_ino;
}

static void import(int fd, const char *path) {
    int card = open(path, O_RDWR | O_CLOEXEC);
    if (card < 0) fail(path);
    uint32_t handle;
    if (drmPrimeFDToHandle(card, fd, &handle)) fail("drmPrimeFDToHandle");
    int exported;
    if (drmPrimeHandleToFD(card, handle, DRM_CLOEXEC | DRM_RDWR, &exported)) fail("drmPrimeHandleToFD");
    off_t size = lseek(exported, 0, SEEK_END);
    if (size <= 0) fail("lseek");
    printf("imported %" PRIu64 " %lld\n", inode(exported), (long long)size);
    fflush(stdout);
    const void *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, exported, 0);
    if (bytes == MAP_FAILED) fail("mmap");
    struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
    if (ioctl(exported, DMA_BUF_IOCTL_SYNC, &sync)) fail("DMA_BUF_IOCTL_SYNC");
    for (size_t done = 0; done < (size_t)size;) {
        ssize_t count = write(1, (const char *)bytes + done, (size_t)size - done);
        if (count < 0) fail("write");
        done += (size_t)count;
    }
}

static void receive(const char *path, const char *card) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) usage();
    strcpy(address.sun_path, path);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
        fail(path);
    int connection = accept(listener, NULL, NULL);
    if (connection < 0) fail("accept");
    char text[4096];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = text, .iov_len = sizeof text};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(connection, &message, 0);
    struct cmsghdr *header = size > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
        fail("no descriptor came");
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    fwrite(text, 1, (size_t)size, stdout);
    import(fd, card);
}

static int create(int memfd, uint64_t offset, uint64_t length) {
    int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
    if (device < 0) fail("/dev/udmabuf");
    struct udmabuf_create item = {.memfd = (uint32_t)memfd, .offset = offset, .size = length};
    int fd = ioctl(device, UDMABUF_CREATE, &item);
    if (fd < 0) fail("UDMABUF_CREATE");
    close(device);
    return fd;
}

static void hold(int count) {
    int buffers[256];
    if (count < 1 || count > 256) usage();
    long page = sysconf(_SC_PAGESIZE);
    for (int index = 0; index < count; index++) {
        off_t size = page * (index + 1);
        int memfd = memfd_create("stranger", MFD_ALLOW_SEALING | MFD_CLOEXEC);
        if (memfd < 0 || ftruncate(memfd, size) || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK)) fail("memfd");
        buffers[index] = create(memfd, 0, (uint64_t)size);
        close(memfd);
    }
    int ready[2], end[2];
    if (pipe(ready) || pipe(end)) fail("pipe");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        close(end[1]);
        for (int index = 1; index < count; index += 2) {
            if (mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, buffers[index], 0) == MAP_FAILED) fail("mmap");
            close(buffers[index]);
        }
        char byte = 0;
        if (write(ready[1], &byte, 1) != 1) fail("write");
        // Ends when the parent does, whatever ends that.
        _exit(read(end[0], &byte, 1) < 0);
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) fail("the child");
    printf("%d", (int)child);
    for (int index = 0; index < count; index++) printf(" %" PRIu64, inode(buffers[index]));
    puts("");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    close(end[1]);
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "import")) {
        import(atoi(argv[2]), argv[3]);
    } else if (argc == 4 && !strcmp(argv[1], "receive")) {
        receive(argv[2], argv[3]);
    } else if (argc == 3 && !strcmp(argv[1], "hold")) {
        hold(atoi(argv[2]));
    } else {
        usage();
    }
    return 0;
}
