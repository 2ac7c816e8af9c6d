// The network: none unless asked for, and then the public one only.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "isolation.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(Isolation, TheNetworkCannotBeReached) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  socklen_t size = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  std::string port = std::to_string(ntohs(address.sin_port));
  EXPECT_THAT(both("(echo > /dev/tcp/127.0.0.1/" + port + ") && echo reached"),
              Not(HasSubstr("reached")));
  fcntl(listener, F_SETFL, O_NONBLOCK);
  EXPECT_LT(accept(listener, nullptr, nullptr), 0);
  close(listener);
  EXPECT_EQ(output_of(*environment_, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
  EXPECT_THAT(both("(echo > /dev/tcp/192.0.2.1/80) 2>&1"), HasSubstr("unreachable"));
  // Its own loopback does work.
  if (has("python3")) {
    EXPECT_EQ(output_of(*environment_,
                        "python3 -c \"import socket; s=socket.create_server(('127.0.0.1',8000));"
                        "c=socket.create_connection(('127.0.0.1',8000)); print('own')\""),
              "own\n");
  }
}
}  // namespace
}  // namespace espalier::envs::testing
