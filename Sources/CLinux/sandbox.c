#define _GNU_SOURCE
#include "CLinux.h"

#include <assert.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/seccomp.h>

static_assert(CL_SECCOMP_SET_MODE_FILTER == SECCOMP_SET_MODE_FILTER, "operations");

// Only the C library's headers from 2.37 on have it.
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif

int cl_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }

int cl_no_core_file(void) {
  struct rlimit none = {0, 0};
  return setrlimit(RLIMIT_CORE, &none);
}

int cl_not_dumpable(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }

int cl_drop_bounding_capability(unsigned long capability) {
  return prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
}

int cl_drop_capabilities(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
  return (int)syscall(SYS_capset, &header, none);
}

int cl_default_action(int signal) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  return sigaction(signal, &action, NULL);
}

static struct cl_denial denial;

static char *append(char *end, const char *limit, const char *text) {
  while (*text && end < limit)
    *end++ = *text++;
  return end;
}

// It calls only functions that a signal handler may call: malloc may have been interrupted.
static void exit_on_denied_call(int number, siginfo_t *info, void *context) {
  (void)context;
  if (info->si_code != SYS_SECCOMP)
    _exit(128 + number);
  unsigned call = (unsigned)info->si_syscall;
  const char *name = NULL;
  if (info->si_arch == denial.architecture && call < denial.count)
    name = denial.names[call];
  char digits[11] = {0}, *digit = digits + sizeof digits - 1;
  do
    *--digit = (char)('0' + call % 10);
  while (call /= 10);

  char line[512], *end = line;
  const char *limit = line + sizeof line;
  end = append(end, limit, denial.before);
  end = append(end, limit, name ? name : "of another architecture");
  end = append(end, limit, " (number ");
  end = append(end, limit, digit);
  end = append(end, limit, ")");
  end = append(end, limit, denial.after);
  ssize_t written = write(STDERR_FILENO, line, (size_t)(end - line));
  (void)written;
  _exit(1);
}

int cl_exit_on_denied_call(const struct cl_denial *what) {
  struct sigaction action = {.sa_sigaction = exit_on_denied_call, .sa_flags = SA_SIGINFO};
  denial = *what;
  return sigaction(SIGSYS, &action, NULL);
}
