/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The namespaces around a tree: the user namespace that the guard enters where it is not root, for the right to make others,
 * and the mount namespace that actor 0 begins in.
 */
#ifndef CKPTREE_NAMESPACES_H
#define CKPTREE_NAMESPACES_H

/* Return 1 if the caller has CAP_SYS_ADMIN in its user namespace. */
int may_administer(void);

void enter_user_namespace(void);

/*
 * Mounts in the tree's mount namespace must not propagate. The call takes a mount point, and the root of a chroot may be
 * none. Then the mount that contains it is changed from above: leave the chroot, by a root that is not above the working
 * directory, and enter it again.
 */
long make_mounts_private(void);

#endif
