// Layers in the spawner's mount namespace: /l/ID/u holds the files, /l/ID/w overlay's scratch; each
// is a tmpfs of its own unless uppers are on disk.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {

/// Answers a request; a failure, where given, is sent in place of value and descriptors.
void reply(int socket, const wire::SpawnerHeader& header, const Failure* failure,
           uint32_t value = 0, const int* fds = nullptr, size_t fd_count = 0);

/// A writable layer with caps on bytes and files (0: none).
bool make_upper(const Base& base, uint64_t id, uint64_t bytes, uint64_t inodes, Failure* failure);
void drop_layer(const Base& base, uint64_t id);
/// The directory of its files; -1 on error.
int open_layer(uint64_t id);
/// Makes it read-only.
bool seal(const Base& base, uint64_t id, Failure* failure);
/// Undoes seal().
bool unseal(const Base& base, uint64_t id, Failure* failure);
/// True when nothing was written to it.
bool is_empty(int layer_dir);

/// A detached overlay of the request's layers over the skeleton, its id's upper on top; -1 on
/// error. Works in /l.
int make_overlay(Base* base, const wire::SpawnRequest& request, const uint64_t* layers,
                 Failure* failure);

// Requests of these names (wire.h), answered on the socket.
void handle_add_layer(int socket, const Base& base, const wire::LayerRequest& request, int pack_fd);
void handle_merge_layers(int socket, const Base& base, const wire::LayerRequest& request);
void handle_is_empty(int socket, const wire::SpawnerHeader& header);
void handle_export(int socket, const Base& base, const wire::LayerRequest& request, int out);

}  // namespace espalier::envs::init
