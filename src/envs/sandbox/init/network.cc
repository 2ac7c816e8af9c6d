#include "envs/sandbox/init/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace espalier::envs::init {
namespace {

struct Range {
  const char* address;
  unsigned char bits;
};

constexpr Range kClosed[] = {{"0.0.0.0", 8},      {"10.0.0.0", 8},    {"100.64.0.0", 10},
                             {"169.254.0.0", 16}, {"172.16.0.0", 12}, {"192.0.0.0", 24},
                             {"192.168.0.0", 16}, {"198.18.0.0", 15}, {"224.0.0.0", 4},
                             {"240.0.0.0", 4}};
constexpr size_t kMaxHostAddresses = 64;

in_addr g_host_addresses[kMaxHostAddresses];
size_t g_host_address_count = 0;

struct RouteRequest {
  nlmsghdr header;
  rtmsg route;
  rtattr attribute;
  in_addr destination;
};

struct RouteAnswer {
  nlmsghdr header;
  nlmsgerr error;
};

bool add_unreachable(int netlink, in_addr destination, unsigned char bits) {
  RouteRequest request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_NEWROUTE;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
  request.route.rtm_family = AF_INET;
  request.route.rtm_dst_len = bits;
  request.route.rtm_table = RT_TABLE_MAIN;
  request.route.rtm_protocol = RTPROT_STATIC;
  request.route.rtm_type = RTN_UNREACHABLE;
  request.attribute.rta_len = RTA_LENGTH(sizeof destination);
  request.attribute.rta_type = RTA_DST;
  request.destination = destination;
  if (send(netlink, &request, sizeof request, 0) != ssize_t(sizeof request)) return false;
  char buffer[1024];
  ssize_t n = recv(netlink, buffer, sizeof buffer, 0);
  if (n < ssize_t(sizeof(RouteAnswer))) return false;
  RouteAnswer answer;
  memcpy(&answer, buffer, sizeof answer);
  errno = -answer.error.error;
  return answer.header.nlmsg_type == NLMSG_ERROR && answer.error.error == 0;
}

}  // namespace

void remember_host_addresses() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all)) return;
  for (ifaddrs* each = all; each && g_host_address_count < kMaxHostAddresses;
       each = each->ifa_next) {
    if (!each->ifa_addr || each->ifa_addr->sa_family != AF_INET) continue;
    sockaddr_in address;
    memcpy(&address, each->ifa_addr, sizeof address);
    g_host_addresses[g_host_address_count++] = address.sin_addr;
  }
  freeifaddrs(all);
}

void raise_loopback() {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  memcpy(request.ifr_name, "lo", 3);
  request.ifr_flags = IFF_UP;
  if (fd >= 0) ioctl(fd, SIOCSIFFLAGS, &request);
  if (fd >= 0) close(fd);
}

bool close_private_routes(Failure* failure) {
  int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (netlink < 0) return failure->set("open a netlink socket");
  bool done = true;
  for (const Range& range : kClosed) {
    in_addr address{};
    inet_pton(AF_INET, range.address, &address);
    done = done && (add_unreachable(netlink, address, range.bits) ||
                    failure->set("close the route to %s/%u", range.address, range.bits));
  }
  for (size_t i = 0; i < g_host_address_count && done; ++i)
    done = add_unreachable(netlink, g_host_addresses[i], 32) ||
           failure->set("close the route to the host");
  close(netlink);
  return done;
}

}  // namespace espalier::envs::init
